"""The target of `make run`: one tenant on this machine, with folders for buckets."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from media_core.auth import tokens
from media_core.errors import Unavailable
from media_core.events.webhooks import webhook_id
from media_core.policy import Policy
from media_core.store.folder import FolderStore
from media_core.upkeep import births
from media_operator.backends import notes
from media_operator.backends.databases import read_policy
from media_operator.local.machine import Machine
from media_operator.local.manifest import short
from media_operator.local.postgres import PostgresFailed
from media_operator.local.site import Site
from media_operator.plan import steps
from media_operator.plan.observed import (
    Api,
    Bucket,
    Database,
    Notes,
    ObservedState,
    SigningKeys,
    Unreachable,
    WebhookNote,
    Workers,
)
from media_operator.plan.steps import StepFailed
from media_operator.tenant.annotations import rotation_of
from media_operator.tenant.ownership import NotOwned, OwnerMark
from media_operator.tenant.spec import MediaTenant


@dataclass(frozen=True)
class LocalTarget:
    """`reconcile.Target` for one pass over the machine's tenant."""

    machine: Machine
    tenant: MediaTenant

    # --- observe ------------------------------------------------------------------------------------------------

    async def observe(self) -> ObservedState:
        machine, tenant = self.machine, self.tenant
        database, applied, said = await self._observe_database()
        bucket, contents = await self._observe_bucket()
        if contents and isinstance(database, Database):
            database = await self._observe_known(database, contents)
        keys = tokens.load_signing_keys(machine.site.signing_keys(tenant))
        return ObservedState(
            bucket=bucket,
            database=database,
            notes=said,
            signing_keys=SigningKeys(len(keys), rotation_of(tenant)),
            policy=applied,
            scanner=machine.scanner(),
            api=Api(machine.api_shape, wanted=1, ready=await machine.api_ready(), trouble=machine.api.trouble),
            workers=Workers(machine.workers.shape, dict(machine.workers.trouble)),
        )

    async def _observe_bucket(self) -> tuple[Bucket | Unreachable, Sequence[str]]:
        """The bucket, and the hashes of its first contents if it has no birth."""
        tenant_id, store = self.tenant.tenant_id, self._store()
        folder, mark = self.machine.site.bucket(self.tenant), self.machine.site.mark(self.tenant)
        try:
            owner = OwnerMark.parse(mark.read_text()) if mark.exists() else None
            birth = await births.of_bucket(store, tenant_id)
            contents = [] if birth else await births.first_contents(store, tenant_id)
        except OSError as error:
            return Unreachable(f"{folder}: {error.strerror}"), ()
        except Unavailable as error:
            return Unreachable(f"{folder}: {error.detail}"), ()
        return Bucket(folder.is_dir(), owner, birth=birth, contents=len(contents)), contents

    def _store(self) -> FolderStore:
        return FolderStore(self.machine.site.bucket(self.tenant), self.tenant.tenant_id, b"", "")

    async def _observe_database(
        self,
    ) -> tuple[Database | Unreachable, Policy | Unreachable | None, Notes | Unreachable]:
        databases, schema = self.machine.databases, self.tenant.schema_name
        try:
            self.machine.postgres.start()  # starts a server that has died again, at the same address
            facts = await databases.observe(schema, self.machine.saved_secrets(self.tenant).get("database_password"))
            if facts.revision not in facts.known_revisions:
                return facts, None, Notes()
            async with databases.within(schema) as tx:
                return facts, await read_policy(tx), in_files(await notes.read(tx), self.tenant, self.machine.site)
        except (Unavailable, PostgresFailed) as error:
            away = Unreachable(error.detail if isinstance(error, Unavailable) else str(error))
            return away, away, away

    async def _observe_known(self, facts: Database, contents: Sequence[str]) -> Database | Unreachable:
        try:
            return replace(facts, known=await self.machine.databases.known(self.tenant.schema_name, contents))
        except Unavailable as error:
            return Unreachable(error.detail)

    # --- apply --------------------------------------------------------------------------------------------------

    async def apply(self, step: steps.Step) -> None:
        try:
            await self._apply(step)
        except NotOwned as error:
            raise StepFailed(f"database: {error}") from error
        except Unavailable as error:
            raise StepFailed(str(error)) from error
        except OSError as error:
            raise StepFailed(f"{error.filename}: {error.strerror}") from error

    async def _apply(self, step: steps.Step) -> None:
        machine, tenant = self.machine, self.tenant
        site, databases = machine.site, machine.databases
        match step:
            case steps.CreateBucket(_, owner):
                site.mark(tenant).parent.mkdir(mode=0o700, exist_ok=True)
                site.mark(tenant).write_text(str(owner))
                site.bucket(tenant).mkdir(mode=0o700, exist_ok=True)
            case steps.CreateDatabase(schema, owner, adopt):
                password = secrets.token_urlsafe(24)
                await databases.create(schema, owner, password, adopt=adopt)
                machine.save_secrets(tenant, database_password=password)
            case steps.MigrateDatabase(schema):
                await databases.migrate(schema)
            case steps.WriteBirth(schema, _, tenant_id, renew):
                birth = await databases.birth(schema, renew=renew)
                await births.write(self._store(), tenant_id, birth)
            case steps.TrustSignatures(schema, signatures):
                await databases.trust(schema, signatures)
            case steps.ReleaseOrphans(schema, until):
                await databases.release_orphans(schema, until)
            case steps.MakeSigningKey():
                site.of(tenant).mkdir(mode=0o700, exist_ok=True)
                tokens.save_signing_keys(site.signing_keys(tenant), [tokens.generate_key()])
            case steps.ApplyPolicy(wanted):
                await databases.apply_policy(tenant.schema_name, wanted)
            case steps.RunApi(shape):
                await machine.run_api(tenant, shape)
            case steps.ShapeWorkers(shape):
                await machine.shape_workers(tenant, shape)


def in_files(said: Notes, tenant: MediaTenant, site: Site) -> Notes:
    """The api names a webhook's secret as the Secret and key of a cluster. Here it is a file."""
    refs = {webhook_id(each.url): each.secret_ref for each in tenant.spec.webhooks}

    def named(note: WebhookNote) -> WebhookNote:
        if (ref := refs.get(note.webhook_id)) is None or note.error is None:
            return note
        path = short(site.webhook_secrets(tenant) / ref.name / ref.key)
        return replace(note, error=note.error.replace(f"{ref.name}/{ref.key}", str(path)))

    return replace(said, webhooks=tuple(map(named, said.webhooks)))
