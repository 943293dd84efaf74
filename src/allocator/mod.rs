//! Which resource a lease gets, or what has to happen first: pure decisions over a snapshot.
