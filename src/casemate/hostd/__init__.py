"""The unprivileged vSphere front end."""
