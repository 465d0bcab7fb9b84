"""`make faults`: every fault that a PBX's host meets, done to a live bridge, and what the CRM was told then.

One module for each kind of fault; `judge` alone decides whether the promises were kept.
"""
