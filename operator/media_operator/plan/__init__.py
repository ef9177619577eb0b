"""What to do for a tenant: `plan(tenant, observed)`, a pure function, level-triggered.

Every trigger (start, edit, timer, a child that died, a queue event) observes anew and calls it. No state is kept
between two calls. It walks one ordered list of checks. Each check reports one condition and the steps that would make
it true. Rules:

- What could not be observed (`Unreachable`) is Unknown and starts no step.
- A bucket or schema with another tenant's owner mark is never touched.
- Every step may be applied twice.
- A step that failed in this pass is reported and not planned again in this pass.

    tenant (desired), observed -> checks -> findings -> steps and conditions

`plan_deletion` does the same for a tenant that is being deleted together with its data.
"""
