"""crmbridge joins an Asterisk PBX to the FixDigital CRM."""

__version__ = "0.1.0"
