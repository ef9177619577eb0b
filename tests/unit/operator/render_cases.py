"""Tenants of all kinds. Their manifests are compared with golden files, and are applied to a real API server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import SecretStr

from media_operator import render
from media_operator.cluster.kinds import Object, child_name
from media_operator.settings import PlatformSettings, StoreAdminSettings
from media_operator.tenant.spec import MediaTenant

CREDENTIALS = {
    render.DATABASE_URL: "postgresql+psycopg://tenant_acme:hidden-password@postgres.media-system.svc:5432/media",
    render.S3_KEY_ID: "HIDDENKEYID",
    render.S3_SECRET: "hidden-secret-key",
}
SIGNING_KEYS = '{"keys": [{"kty": "OKP", "d": "hidden-private-key"}]}'
JWKS = '{"keys": [{"crv": "Ed25519", "kid": "one", "kty": "OKP", "x": "public"}]}'
HIDDEN = ("hidden-password", "HIDDENKEYID", "hidden-secret-key", "hidden-private-key", "admin-secret", "ADMINKEYID")
SESSION = {
    render.DATABASE_URL: CREDENTIALS[render.DATABASE_URL],
    render.S3_FILE: '{"Version": 1, "AccessKeyId": "HIDDENKEYID", "SecretAccessKey": "hidden-secret-key"}',
}
"""With `credentials: role`. What the file says is nothing to the manifests."""
STORE = StoreAdminSettings(
    endpoint="http://s3.media-system.svc:7070",
    region="us-east-1",
    access_key_id="ADMINKEYID",
    secret_access_key=SecretStr("admin-secret"),
)
PLATFORM = {"api_image": "api:1", "worker_image": "workers:1", "clamd_host": "clamd.media-system.svc"}
WORK = ("scan", "transcribe", "thumbnail")
_platform_settings = cache(PlatformSettings)  # each takes milliseconds, and a test of all cases asks for hundreds


@dataclass(frozen=True)
class Case:
    spec: Mapping[str, Any] = field(default_factory=dict)
    platform: Mapping[str, Any] = field(default_factory=dict)
    store: Mapping[str, Any] = field(default_factory=dict)
    name: str = "acme"

    def tenant(self, namespace: str = "team-acme", uid: str = "00000000-0000-4000-8000-000000000000") -> MediaTenant:
        return MediaTenant.read(
            {
                "apiVersion": "media.scaiwave.io/v1alpha1",
                "kind": "MediaTenant",
                "metadata": {"name": self.name, "namespace": namespace, "uid": uid},
                "spec": dict(self.spec),
            }
        )

    @property
    def platform_settings(self) -> PlatformSettings:
        return _platform_settings(**{**PLATFORM, **self.platform})

    @property
    def store_settings(self) -> StoreAdminSettings:
        return STORE.model_copy(update=dict(self.store))

    @property
    def credentials(self) -> Mapping[str, str]:
        return SESSION if self.store_settings.credentials == "role" else CREDENTIALS

    def secrets(self, tenant: MediaTenant) -> list[Object]:
        return [render.credentials_secret(tenant, self.credentials), render.signing_keys_secret(tenant, SIGNING_KEYS)]

    def workloads(self, tenant: MediaTenant, **inputs: Any) -> list[Object]:
        known: dict[str, Any] = {"credentials": self.credentials, "jwks": JWKS, "oidc_jwks_uri": None}
        if tenant.spec.auth.oidc is not None:
            known["oidc_jwks_uri"] = f"{tenant.spec.auth.oidc.issuer}/keys"
        return render.workloads(tenant, self.platform_settings, self.store_settings, render.Inputs(**(known | inputs)))

    def jobs(self, tenant: MediaTenant) -> list[Object]:
        return [
            render.job(
                tenant,
                self.platform_settings,
                self.store_settings,
                kind=kind,
                name=f"{child_name(tenant.tenant_id, kind)}-0a1b2c3d",
                credentials=self.credentials,
            )
            for kind in WORK
        ]


CASES = {
    "default": Case(),
    "suspended": Case({"suspended": True}),
    "autoscaling": Case({"api": {"autoscaling": {"min": 2, "max": 8, "targetCpu": 60}}}),
    "oidc-ingress": Case(
        {
            "api": {"host": "media.acme.example", "page": True},
            "auth": {
                "oidc": {
                    "issuer": "https://login.acme.example/realms/acme",
                    "claims": {"subject": "oid", "tenantRole": "realm_access.roles"},
                    "page": {"clientId": "files", "scopes": ["openid", "media"], "origins": ["https://token.example"]},
                }
            },
        },
        {"ingress_class": "nginx", "cluster_issuer": "letsencrypt"},
    ),
    "webhooks": Case(
        {
            "webhooks": [
                {
                    "url": "https://app.acme.example:8443/hooks/media",
                    "events": ["scanned", "deleted"],
                    "secretRef": {"name": "app-hook"},
                },
                {"url": "http://app.team-acme.svc/hook", "secretRef": {"name": "app-hook", "key": "inner"}},
            ]
        },
        {"webhook_allow_networks": "10.20.0.0/16"},
    ),
    "gateway": Case({"api": {"host": "media.acme.example"}}, {"gateway": "edge/public"}),
    "gpu-kueue": Case(
        {
            "transcription": {
                "device": "cuda",
                "model": "large-v3",
                "computeType": "float16",
                "runtimeClass": "nvidia",
                "nodeSelector": {"gpu": "l4"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            }
        },
        {"kueue_queue": "media", "job_runtime_class": "gvisor"},
    ),
    "everything": Case(
        {
            "storage": {"bucket": "acme-files"},
            "api": {
                "replicas": 5,
                "host": "media.acme.example",
                "cors": {"origins": ["https://app.example", "https://*.preview.example"], "maxAgeSeconds": 60},
                "signedUrlMaxSeconds": 86400,
                "uploadHours": 48,
                "uploadDraft": True,
                "page": True,
                "resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"memory": "4Gi"}},
            },
            "scan": {"maxParallel": 2, "rescanSchedule": "30 2 * * 6"},
            "transcription": {
                "model": "/models-cache/ours",
                "modelCache": "models",
                "resources": {"requests": {"cpu": 4, "memory": "6Gi"}},
            },
            "namespaceQuota": {"cpu": "16", "memory": "64Gi", "pods": 40, "jobs": 100},
        },
        {
            "image_pull_policy": "Always",
            "image_pull_secrets": "registry, mirror",
            "clamd_port": 3311,
            "job_priority_class": "batch",
            "api_priority_class": "serving",
            "job_runtime_class": "gvisor",
            "job_ttl_seconds": 600,
            "log_level": "debug",
            "ingress_annotations": "{}",
        },
        {
            "public_endpoint": "https://s3.example",
            "region": "eu-central-1",
            "sse": "aws:kms",
            "sse_kms_key_id": "media",
        },
    ),
    "openshift": Case(
        {
            "api": {"host": "media.acme.example", "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "2"}}},
            "scan": {"resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}},
            "thumbnails": {"resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "1"}}},
            "transcription": {
                "device": "cuda",
                "modelCache": "models",
                "nodeSelector": {"gpu": "a100"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "4", "nvidia.com/mig-1g.10gb": 1}},
            },
        },
        {
            "run_as_user": "cluster",
            "trust_config_map": "authorities",
            "trust_key": "bundle.pem",
            "https_proxy": "http://proxy.example:3128",
            "no_proxy": ".corp.example, 10.0.0.7",
            "gateway": "edge/public",
            "gateway_request_timeout": "0s",
            "node_selector": '{"pool": "media", "gpu": "none"}',
            "tolerations": '[{"key": "dedicated", "value": "media", "effect": "NoSchedule"}]',
            "api_pod_labels": '{"team": "media", "app.kubernetes.io/component": "never"}',
            "api_pod_annotations": '{"example.com/scrape": "false"}',
            "worker_pod_labels": '{"sidecar.istio.io/inject": "false"}',
            "worker_pod_annotations": '{"example.com/owner": "media"}',
            "sweep_resources": '{"requests": {"cpu": "50m"}, "limits": {"cpu": "500m"}}',
        },
    ),
    "role": Case(store={"credentials": "role", "role_arn": "arn:aws:iam::111111111111:role/media-objects"}),
    "thumbnails-only": Case({"api": {"replicas": 1}, "scan": {"enabled": False}, "transcription": {"enabled": False}}),
}
LONGEST = Case(name="0" + "a" * 38 + "z")
"""An id of the greatest length, that begins with a digit."""
