"""Where work runs: a job as data, and the worker process that runs it away from the viewer."""
