"""A small telephone exchange on one machine: real Asterisks, SIP phones that say what they heard, a trunk, a database."""
