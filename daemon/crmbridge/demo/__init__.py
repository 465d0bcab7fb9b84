"""The embedded default: a simulated PBX and a receiver that plays the CRM."""
