"""HES: takes email over a REST API, keeps it safe, gets it out through one of several providers."""

__version__ = "0.1.0"
