//! Who runs a task, and when. Knows nothing of what a task means.
