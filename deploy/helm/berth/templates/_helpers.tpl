{{/* Labels of every object. */}}
{{- define "berth.labels" -}}
app.kubernetes.io/part-of: berth
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What the pods of one service are known by: (dict "component" name). */}}
{{- define "berth.selector" -}}
app.kubernetes.io/name: berth
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The objects of one file with our labels, and of the release's namespace: (dict "text" text "root" $). */}}
{{- define "berth.objects" -}}
{{- $root := .root }}
{{- range $text := splitList "\n---\n" .text }}
{{- $object := fromYaml $text }}
{{- $_ := set $object.metadata "labels" (merge (default (dict) $object.metadata.labels) (fromYaml (include "berth.labels" $root))) }}
{{- if not (hasPrefix "Cluster" $object.kind) }}
{{- $_ := set $object.metadata "namespace" $root.Release.Namespace }}
{{- end }}
{{- range $object.subjects }}
{{- $_ := set . "namespace" $root.Release.Namespace }}
{{- end }}
---
{{ toYaml $object }}
{{- end }}
{{- end }}
