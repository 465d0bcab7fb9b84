"""A small telephone exchange on one machine: Asterisks, SIP phones that say what they heard, a trunk, a database."""
