//! Files under a lease's root.
