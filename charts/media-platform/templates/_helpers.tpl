{{/*
Every object's name begins with it; the operator of release `media` is `media-operator`. A release's name may have dots
and begin with a digit, a Service's may not.
*/}}
{{- define "media.fullname" -}}
{{- $name := .Values.fullnameOverride | default .Release.Name | replace "." "-" -}}
{{- regexReplaceAll "^([0-9])" $name "media-${1}" | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* What tells the pods of one component. Call with (list $ "operator"). Never changes: selectors are immutable. */}}
{{- define "media.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: media-{{ index . 1 }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- end }}

{{/*
All labels of a component's objects and pods. managed-by is Helm, so that the operator's watches, which ask for what it
manages itself, never see them.
*/}}
{{- define "media.labels" -}}
{{- $root := index . 0 -}}
{{ include "media.podLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/*
Those of its pods: without what an upgrade changes, or each one would restart what it does not touch. A third part are
further ones of the component, which have the last word over commonLabels: a label stands once.
*/}}
{{- define "media.podLabels" -}}
{{- $root := index . 0 -}}
{{ include "media.selector" . }}
app.kubernetes.io/component: {{ index . 1 | trimPrefix "dev-" }}
app.kubernetes.io/part-of: media-platform
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- $own := dict -}}
{{- if gt (len .) 2 }}{{ $own = index . 2 | default dict }}{{ end -}}
{{- with merge (dict) $own ($root.Values.commonLabels | default dict) }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* registry/repository:tag@digest. Call with (list $ .Values.operator.image). */}}
{{- define "media.image" -}}
{{- $shared := (index . 0).Values.image -}}
{{- $own := index . 1 -}}
{{- $registry := $own.registry | default $shared.registry -}}
{{- with $registry }}{{ . }}/{{ end -}}
{{- $own.repository -}}
{{- if or $own.tag (not $own.digest) }}:{{ $own.tag | default $shared.tag | default (index . 0).Chart.AppVersion }}{{ end -}}
{{- with $own.digest }}@{{ . }}{{ end -}}
{{- end }}

{{/* Names, separated by commas. Each value is a name, or {name: ...} as in a pod. */}}
{{- define "media.pullSecretNames" -}}
{{- $names := list -}}
{{- range .Values.imagePullSecrets }}{{ if kindIs "map" . }}{{ $names = append $names .name }}{{ else }}{{ $names = append $names . }}{{ end }}{{ end -}}
{{- join "," $names -}}
{{- end }}

{{- define "media.pullSecrets" -}}
{{- with compact (splitList "," (include "media.pullSecretNames" .)) }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Pod security of the "restricted" standard; a fixed user, so that volumes can be written, unless the cluster picks it. */}}
{{- define "media.podSecurityContext" -}}
runAsNonRoot: true
{{- with .Values.podSecurity.runAsUser }}
runAsUser: {{ int . }}
runAsGroup: {{ int . }}
fsGroup: {{ int . }}
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "media.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/*
Where a component's pods may run. Call with (list $ "operator" .Values.operator replicas). Without constraints of the
values' own, replicas spread over nodes where they can.
*/}}
{{- define "media.scheduling" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index . 2 -}}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml $values.topologySpreadConstraints | nindent 2 }}
{{- else if gt (int (index . 3)) 1 }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "media.selector" (list $root $component) | nindent 8 }}
{{- end }}
{{- end }}

{{- define "media.operatorAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (printf "%s-operator" (include "media.fullname" .)) -}}
{{- else -}}
{{- required "serviceAccount.name is needed where serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/*
Namespaces that the operator watches, separated by commas; empty: all. Its own is always among them: its Lease is there,
and that this Lease comes back through the watches is how it knows that they live.
*/}}
{{- define "media.namespaces" -}}
{{- if .Values.watchNamespaces -}}
{{- append .Values.watchNamespaces .Release.Namespace | uniq | sortAlpha | join "," -}}
{{- end -}}
{{- end }}

{{- define "media.clamdHost" -}}
{{- if .Values.clamd.enabled -}}
{{- printf "%s-clamd.%s.svc" (include "media.fullname" .) .Release.Namespace -}}
{{- else -}}
{{- required "clamd.host is needed where clamd.enabled is false" .Values.clamd.host -}}
{{- end -}}
{{- end }}

{{/* S3: the development server's, what the values say, or AWS's own of the region. */}}
{{- define "media.s3Endpoint" -}}
{{- if .Values.dev.enabled -}}
{{- printf "http://%s-dev-s3.%s.svc:7070" (include "media.fullname" .) .Release.Namespace -}}
{{- else -}}
{{- .Values.s3.endpoint | default (printf "https://s3.%s.amazonaws.com" .Values.s3.region) -}}
{{- end -}}
{{- end }}

{{- define "media.iamEndpoint" -}}
{{- if .Values.dev.enabled -}}
{{- printf "http://%s-dev-s3.%s.svc:7076" (include "media.fullname" .) .Release.Namespace -}}
{{- else -}}
{{- .Values.s3.iamEndpoint -}}
{{- end -}}
{{- end }}

{{/* Empty: the operator has no key of its own, and AWS gives it one by its service account. */}}
{{- define "media.s3Secret" -}}
{{- if .Values.dev.enabled }}{{ include "media.fullname" . }}-dev-s3
{{- else if and (not .Values.s3.existingSecret) (eq .Values.s3.credentials "shared") }}
{{- fail "s3.existingSecret is needed where s3.credentials is shared: it is the key of all tenants" }}
{{- else }}{{ .Values.s3.existingSecret }}{{ end -}}
{{- end }}

{{- define "media.roleArn" -}}
{{- if eq .Values.s3.credentials "role" -}}
{{- required "s3.roleArn is needed where s3.credentials is role" .Values.s3.roleArn -}}
{{- end -}}
{{- end }}

{{- define "media.postgresSecret" -}}
{{- if .Values.dev.enabled }}{{ include "media.fullname" . }}-dev-postgres{{ else }}{{ .Values.postgres.existingSecret }}{{ end -}}
{{- end }}

{{/* The one that is there, so that an upgrade keeps it. Call with (list $ secret key). */}}
{{- define "media.devPassword" -}}
{{- $there := lookup "v1" "Secret" (index . 0).Release.Namespace (index . 1) -}}
{{- if $there }}{{ index $there.data (index . 2) | b64dec }}{{ else }}{{ (index . 0).Values.dev.password | default (randAlphaNum 32) }}{{ end -}}
{{- end }}

{{/* Pods of the platform in any namespace: the chart's own and the tenants'. */}}
{{- define "media.fromPlatform" }}
- namespaceSelector: {}
  podSelector:
    matchLabels:
      app.kubernetes.io/part-of: media-platform
{{- end }}

{{- define "media.egressDns" }}
- ports: # DNS; OpenShift's pods listen at 5353
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
    - {port: 5353, protocol: UDP}
    - {port: 5353, protocol: TCP}
{{- end }}

{{/* Port of a URL, or its scheme's. */}}
{{- define "media.portOf" -}}
{{- $url := urlParse . -}}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (eq $url.scheme "https" | ternary "443" "80") -}}
{{- end }}

{{/*
What values.schema.json could only refuse without words. Of a name that a schema forbids Helm 4 even tells a wrong place.
*/}}
{{- define "media.checks" -}}
{{- $persistence := .Values.clamd.signatures.persistence -}}
{{- $labels := dict "commonLabels" .Values.commonLabels "tenants.labels" .Values.tenants.labels "clamd.signatures.persistence.labels" $persistence.labels "operator.podLabels" .Values.operator.podLabels "clamd.podLabels" .Values.clamd.podLabels -}}
{{- range $where, $given := $labels }}
{{- $free := ternary (list "app.kubernetes.io/version" "helm.sh/chart") list (hasSuffix "podLabels" $where) }}
{{- range $label := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/version" "app.kubernetes.io/component" "app.kubernetes.io/part-of" "app.kubernetes.io/managed-by" "helm.sh/chart" }}
{{- if and (hasKey ($given | default dict) $label) (not (has $label $free)) }}
{{- fail (printf "%s cannot have the label %s, which is set already: leave it out" $where $label) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.s3 }}
{{- $urls := dict "s3.endpoint" .endpoint "s3.publicEndpoint" .publicEndpoint "s3.iamEndpoint" .iamEndpoint "s3.stsEndpoint" .stsEndpoint "proxy.https" $.Values.proxy.https "proxy.http" $.Values.proxy.http -}}
{{- range $where, $url := $urls }}
{{- if not (regexMatch "^(https?://[^/@?#\\s]+/?)?$" ($url | default "")) }}
{{- fail (printf "%s must be an http or https URL without user, path and query, such as https://%s.example" $where (splitList "." $where | first)) }}
{{- end }}
{{- end }}
{{- if and .kmsKeyId (ne .encryption "aws:kms") }}
{{- fail "s3.kmsKeyId needs s3.encryption to be aws:kms" }}
{{- end }}
{{- end }}
{{- $name := "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?" -}}
{{- range $where := list "nodeSelector" "labels" "apiPodLabels" "workerPodLabels" }}
{{- range $key, $value := get $.Values.tenants $where | default dict }}
{{- if not (regexMatch (printf "^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?%s$" $name) $key) }}
{{- fail (printf "tenants.%s: %q is no key of a label: it has up to 63 letters, digits, '-', '_' or '.', and begins and ends with a letter or digit; a DNS name and '/' may stand before it, such as example.org/team" $where $key) }}
{{- end }}
{{- if not (regexMatch (printf "^(%s)?$" $name) $value) }}
{{- fail (printf "tenants.%s: %q, the value of %s, is no value of a label: it has up to 63 letters, digits, '-', '_' or '.', and begins and ends with a letter or digit" $where $value $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- range .Values.tenants.webhookAllowNetworks }}
{{- if not (regexMatch "^([0-9.]+(/0*([0-9]|[12][0-9]|3[0-2]))?|[0-9a-fA-F.]*:[0-9a-fA-F.:]*(/0*([0-9]|[1-9][0-9]|1[01][0-9]|12[0-8]))?)$" .) }}
{{- fail (printf "tenants.webhookAllowNetworks: %q is no network: write an address and how many of its first bits count (at most 32 of IPv4, 128 of IPv6), such as 10.20.0.0/16 or fd00::/8" .) }}
{{- end }}
{{- end }}
{{- with .Values.tenants }}
{{- if not (regexMatch "^([^/\\s]+/[^/\\s]+)?$" (.gateway | default "")) }}
{{- fail (printf "tenants.gateway: %q must be namespace and name of a Gateway, such as gateways/public" .gateway) }}
{{- end }}
{{- if not (regexMatch "^([0-9]{1,5}(h|m|s|ms)){0,4}$" (.gatewayRequestTimeout | default "")) }}
{{- fail (printf "tenants.gatewayRequestTimeout: %q must be a time in h, m, s or ms, such as 10m or 1h30m" .gatewayRequestTimeout) }}
{{- end }}
{{- end }}
{{- if not (regexMatch "^((\\[[0-9a-fA-F:.]+\\]|[^:/@\\s]+):[0-9]+)?$" (.Values.postgres.tenantAddress | default "")) }}
{{- fail (printf "postgres.tenantAddress: %q must be host and port, such as pooler.databases:6432 or [fd00::5]:5432" .Values.postgres.tenantAddress) }}
{{- end }}
{{- if not (regexMatch "^(arn:[!-~]{16,})?$" (.Values.s3.roleArn | default "")) }}
{{- fail (printf "s3.roleArn: %q must be the ARN of a role, such as arn:aws:iam::123456789012:role/media" .Values.s3.roleArn) }}
{{- end }}
{{- range $kind, $given := .Values.tenants.sweepResources }}
{{- range $name := list "memory" "ephemeral-storage" }}
{{- $amount := get ($given | default dict) $name | toString }}
{{- if regexMatch "^[0-9]{1,9}(\\.[0-9]+)?m$" $amount }}
{{- fail (printf "tenants.sweepResources.%s.%s must be in bytes, such as 512Mi: the unit of %s is a thousandth of a byte" $kind $name $amount) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
