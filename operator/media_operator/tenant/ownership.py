"""The owner mark on a bucket, a schema and a role: one line of text that names the MediaTenant it belongs to.

    <uid> <namespace>/<name> <cluster> active|retained <bucket>

Nothing without our own owner mark is ever changed or deleted. Kubernetes gives no uid twice, so a namesake in another
cluster or namespace inherits nothing. A namesake in the same cluster adopts what was left behind: the old resource
cannot exist any more. `retained` says that the owner is gone and its data is to be kept. Then a namesake in any cluster
may adopt it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

Relation = Literal["ours", "adoptable", "foreign"]


class NotOwned(Exception):
    """A bucket, a schema or a role has another owner mark, or none. It was not changed."""


@dataclass(frozen=True)
class OwnerMark:
    """`resource`: `namespace/name`; `cluster`: uid of the kube-system namespace."""

    uid: str
    resource: str = ""
    cluster: str = ""
    retained: bool = False
    bucket: str = ""
    """The bucket of this schema, so that both are found when the resource is gone."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Never fails: an owner mark that cannot be read is somebody else's."""
        uid, resource, cluster, state, bucket = [*text.split(" "), "", "", "", ""][:5]
        return cls(uid, resource, cluster, state == "retained", bucket)

    def __str__(self) -> str:
        if not self.resource:
            return self.uid
        state = "retained" if self.retained else "active"
        return f"{self.uid} {self.resource} {self.cluster} {state} {self.bucket}".rstrip()

    def as_retained(self) -> Self:
        return replace(self, retained=True)

    def relation(self, claimant: OwnerMark, *, adopt: bool = False) -> Relation:
        """What this owner mark means for `claimant`. `adopt`: a person vouches that the other cluster is gone."""
        if self.uid == claimant.uid:
            return "ours"
        namesake = self.resource != "" and self.resource == claimant.resource
        if namesake and (self.retained or self.cluster == claimant.cluster or adopt):
            return "adoptable"
        return "foreign"

    def describe(self) -> str:
        """For a condition's message."""
        return f"MediaTenant {self.resource}" if self.resource else f"another owner ({self.uid})"
