{{/* Labels that select: never changed after the first install. Call with (dict "root" $ "component" name). */}}
{{- define "veilpod.selector" -}}
app.kubernetes.io/name: veilpod
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* All labels of an object. */}}
{{- define "veilpod.labels" -}}
{{ include "veilpod.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "veilpod.sandboxNamespace" -}}
{{ .Values.compute.sandboxNamespace | default (printf "%s-sandboxes" .Release.Namespace) }}
{{- end }}

{{- define "veilpod.operatorUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ .Release.Name }}-operator
{{- end }}

{{/* An image by digest. Call with (dict "root" $ "image" name). */}}
{{- define "veilpod.image" -}}
{{- include "veilpod.validate" .root -}}
{{- $image := index .root.Values.images .image -}}
{{- if not $image.digest -}}
  {{- fail (printf "set images.%s.digest to the image's sha256 digest: images are never taken by tag" .image) -}}
{{- end -}}
{{- with .root.Values.images.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $image.repository }}@{{ $image.digest }}
{{- end }}

{{/* "true" if this release plays a role that needs an operator: every one but the watchtower's. */}}
{{- define "veilpod.party" -}}
{{- range $name, $on := omit .Values.roles "watchtower" }}{{ if $on }}true{{ end }}{{ end }}
{{- end }}

{{/* "true" if this release runs anything on chain. */}}
{{- define "veilpod.onChain" -}}
{{- include "veilpod.party" . }}{{ if .Values.roles.watchtower }}true{{ end }}
{{- end }}

{{/* What runs with the store's image: a list of dicts, under "items" because templates return text. */}}
{{- define "veilpod.stores" -}}
items:
{{- if .Values.roles.storage }}
  - {name: store, size: {{ .Values.storage.size | quote }}, storageClassName: {{ .Values.storage.storageClassName | quote }}, quota: {{ .Values.storage.quota | quote }}}
{{- end }}
{{- if .Values.roles.requester }}
  - {name: mailbox, size: {{ .Values.requester.mailbox.size | quote }}, storageClassName: {{ .Values.requester.mailbox.storageClassName | quote }}, quota: "0"}
{{- end }}
{{- end }}

{{/* Relay pods wherever they are, as a NetworkPolicy peer list on their port. */}}
{{- define "veilpod.toRelays" -}}
- to:
    - namespaceSelector: {{ if .Values.compute.relayNamespaceLabels }}{matchLabels: {{ toJson .Values.compute.relayNamespaceLabels }}}{{ else }}{}{{ end }}
      podSelector: {matchLabels: {veilpod.dev/component: relay}}
    {{- range .Values.compute.relayCIDRs }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  ports:
    - {protocol: TCP, port: {{ .Values.compute.relayPort }}}
{{- end }}

{{/* This release's operator, as a NetworkPolicy peer list. */}}
{{- define "veilpod.fromOperator" -}}
- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ .Release.Namespace }}}}
  podSelector: {matchLabels: {veilpod.dev/component: operator, app.kubernetes.io/instance: {{ .Release.Name }}}}
{{- end }}

{{/* Pod and container security contexts of everything that is ours and no sandbox. */}}
{{- define "veilpod.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "veilpod.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Names of the admission policies and of their bindings, as a JSON list. */}}
{{- define "veilpod.policies" -}}
["veilpod-sandbox-fence", "veilpod-sandbox-access", "veilpod-sandbox-pods", "veilpod-sandbox-evidence", "veilpod-sandbox-namespace"]
{{- end }}

{{/* Refuses what would install but not work, with a sentence that says what to write. Renders nothing. */}}
{{- define "veilpod.validate" -}}
{{- $party := include "veilpod.party" . -}}
{{- $onChain := include "veilpod.onChain" . -}}
{{- if and .Values.cluster.install $onChain -}}
  {{- fail "the cluster's part is a release of its own: install it once with cluster.install=true and no roles, then each party's release with its roles" -}}
{{- end -}}
{{- if not (or .Values.cluster.install $onChain) -}}
  {{- fail "nothing to install: set cluster.install=true for the cluster's part, or one of roles.requester, roles.compute, roles.storage, roles.relay, roles.watchtower for a party's" -}}
{{- end -}}
{{- if $onChain -}}
  {{- if not .Values.chain.rpcUrl }}{{ fail "set chain.rpcUrl to the JSON-RPC endpoint of your node" }}{{ end -}}
  {{- if not .Values.chain.chainId }}{{ fail "set chain.chainId to the chain's id" }}{{ end -}}
  {{- range $name, $address := .Values.chain.contracts -}}
    {{- if not $address }}{{ fail (printf "set chain.contracts.%s to the contract's address" $name) }}{{ end -}}
  {{- end -}}
{{- end -}}
{{- if and $party (not .Values.chain.keySecret.name) -}}
  {{- fail "set chain.keySecret.name to the Secret with this party's chain key; make one with: kubectl create secret generic NAME --from-file=key=FILE" -}}
{{- end -}}
{{- if .Values.roles.watchtower -}}
  {{- $hot := .Values.watchtower.keySecret -}}
  {{- if not $hot.name -}}
    {{- fail "set watchtower.keySecret.name to the Secret with the tower's hot key; make one with: kubectl create secret generic NAME --from-file=key=FILE" -}}
  {{- end -}}
  {{- if and $party (eq $hot.name .Values.chain.keySecret.name) (eq $hot.key .Values.chain.keySecret.key) -}}
    {{- fail "watchtower.keySecret must not be the party's chain key: a watchtower never holds the key of a channel" -}}
  {{- end -}}
{{- end -}}
{{- end }}
