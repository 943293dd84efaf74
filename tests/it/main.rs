//! One integration binary: the harness, then a file per area.

<<<<<<< HEAD
mod protocol;
=======
mod place;

mod exec;
mod exec_ends;
>>>>>>> host
