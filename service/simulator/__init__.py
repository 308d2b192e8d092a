"""A stand-in of Entra ID's token service and the Defender alert APIs: tenants, plausible alerts, faults on
demand.

A product of its own, written from Microsoft's documents: it shares no code with the collector, so that the
two can disagree. Start with `world.World` (tenants and what is true of them) and `server.Simulator` (the
world over HTTPS).

    world      tenants, their app registrations and alerts; `truth` is what a collector should end up holding
    runs       alerts in order of time: generated, bulk or given one by one
    stories    alerts as JSON, from the playbooks; the same story gives the same bytes
    ticks      exact time, and a clock to turn by hand        dice   seeded chance
    entra      the token service        siem       "pull detections"
    chaos      faults as values, by chance or by plan
    server     TLS, lifecycle, counters; `serve` for the command line
"""
