"""Whose a bucket or a database schema is: the mark that it bears, one line of text, wherever a backend can keep one.

    <uid> <namespace>/<name> <cluster> active|retained <bucket>

Nothing without our own mark is ever changed or deleted. A resource's uid is never given twice, so a namesake of another
cluster, or of another namespace, inherits nothing. What the same name in the same cluster left behind is adopted: the
old resource cannot exist any more. `retained` says that its owner is gone and wants it kept; then the same name of
any cluster may adopt it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

Relation = Literal["ours", "adoptable", "foreign"]


class NotOwned(Exception):
    """A bucket, a schema or a role bears another mark, or none. It was left alone."""


@dataclass(frozen=True)
class OwnerMark:
    """`resource` is `namespace/name`, `cluster` the uid of its kube-system namespace."""

    uid: str
    resource: str = ""
    cluster: str = ""
    retained: bool = False
    bucket: str = ""
    """The bucket that belongs with the schema, so that both are found when the resource is gone."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Never fails: a mark that cannot be read is somebody else's."""
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
        """What this mark means to `claimant`. `adopt`: a person vouches that the other cluster is gone."""
        if self.uid == claimant.uid:
            return "ours"
        namesake = self.resource != "" and self.resource == claimant.resource
        if namesake and (self.retained or self.cluster == claimant.cluster or adopt):
            return "adoptable"
        return "foreign"

    def describe(self) -> str:
        """For a condition's message."""
        return f"MediaTenant {self.resource}" if self.resource else f"another owner ({self.uid})"
