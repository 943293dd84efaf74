//! Boxes that are registered by hand: over a whole daemon and real machines over ssh; the plan by itself.

mod changes;
mod commands;
mod cut_off;
mod files;
mod fleet;
mod health;
mod leases;
mod narrow;
mod plan;
mod registering;
mod sites;
mod troubles;
mod ways;
