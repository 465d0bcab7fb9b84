"""A whole site (tests.asterisk.lab.site) under calls, and all that can happen to it: `make faults-cluster`."""
