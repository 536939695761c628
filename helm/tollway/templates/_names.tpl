{{- define "tollway.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* Labels by which a component is selected. Takes (dict "root" $ "component" "gateway"). */ -}}
{{- define "tollway.selector" -}}
app.kubernetes.io/name: tollway
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "tollway.labels" -}}
{{ include "tollway.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "tollway.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "tollway.configMap" -}}
{{- .Values.config.existingConfigMap | default (include "tollway.fullname" .) -}}
{{- end -}}

{{- define "tollway.maxReplicas" -}}
{{- if .Values.autoscaling.enabled }}{{ .Values.autoscaling.max }}{{ else }}{{ .Values.gateway.replicas }}{{ end -}}
{{- end -}}

{{- /* A pool with everything that it left to poolDefaults, as JSON. Takes (dict "root" $ "name" N "pool" P). */ -}}
{{- define "tollway.pool" -}}
{{- $pool := mergeOverwrite (deepCopy .root.Values.poolDefaults) (deepCopy (.pool | default dict)) -}}
{{- $alone := or (ne $pool.kind "Deployment") (and (eq (int $pool.replicas) 1) (not $pool.autoscaling.enabled)) -}}
{{- if not $alone -}}
{{- fail (printf "pools.%s.kind: the pods of a Deployment have no names that tollway.yaml could list, and a shared address would spoil prefix caching: use StatefulSet, or replicas: 1 without autoscaling" .name) -}}
{{- end -}}
{{- if and $pool.autoscaling.enabled (lt (int $pool.autoscaling.max) (int $pool.autoscaling.min)) -}}
{{- fail (printf "pools.%s.autoscaling.max: must not be less than min" .name) -}}
{{- end -}}
{{- toJson $pool -}}
{{- end -}}

{{- define "tollway.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .user }}
runAsGroup: {{ .group | default .user }}
fsGroup: {{ .group | default .user }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "tollway.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
