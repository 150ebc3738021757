"""The version, in a place that the build and the command line can read without loading anything else."""

VERSION = "0.1.0"
