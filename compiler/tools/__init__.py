"""One function behind each command that uses a model or a build."""
