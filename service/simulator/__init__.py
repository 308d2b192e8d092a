"""A stand-in of Entra ID's token service and the Defender alert APIs: tenants, plausible alerts, faults on
demand.

A product of its own, written from Microsoft's documents: it shares no code with the collector, so that the
two can disagree. Start with `world.World` (tenants and what is true of them) and `server.Simulator` (the
world over HTTPS).

    world      tenants, their app registrations and alerts; `truth` is what a collector should end up holding
    runs       alerts in order of time: generated, bulk or given one by one
    stories    alerts as JSON, from the playbooks; the same story gives the same bytes
    ticks      exact time, and a clock to turn by hand        dice   seeded chance
    directory  apps, tenants, people and what they decide  credentials  secrets, certificates, federations
    entra      tokens, sign-in and consent        siem       "pull detections"
    mde xdr graph        the APIs of mutable alerts and incidents; `defender`, `queries`, `pages`,
                         `quotas` and `odata` are what they share
    lives      what becomes of an alert and an incident        cases   all versions of a run of them
    casebook   what these APIs show of a tenant, and the truth  filing  records and changes filed one by one
    forms      an alert or incident in each API's own words     scenery devices, people and files
    chaos      faults as values, by chance or by plan
    server     TLS, lifecycle, counters          standalone  the same for the command line
    identity   the managed identity endpoint of the machine that a collector runs on
"""
