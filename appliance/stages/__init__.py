"""The stages of a job: each a process of its own that works on one job directory."""
