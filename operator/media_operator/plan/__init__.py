"""What to do for a tenant: `plan(tenant, observed)`, a pure function, level-triggered.

Every trigger (start, edit, timer, a child that died, a queue event) observes anew and calls it; nobody remembers what
changed. It walks one ordered list of checks, each of which says one condition and the steps that would make it true.
Rules: what could not be observed (`Unreachable`) is Unknown and starts nothing; what bears another tenant's mark is
never touched; every step may be applied twice; a step that has failed in this pass is reported, not planned again.

    tenant (desired), observed -> checks -> findings -> steps and conditions

`plan_deletion` is the same for a tenant that is being deleted together with its data.
"""
