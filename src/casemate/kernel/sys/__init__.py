"""The only place that forks, mounts, maps memory or issues ioctls."""
