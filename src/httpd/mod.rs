//! Web servers on leased hosts: one file per driver.
