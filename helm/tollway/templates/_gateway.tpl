{{- /* The variables of tollway.yaml, for the gateway and for the migration. */ -}}
{{- define "tollway.environment" -}}
{{- with .Values.secrets }}
envFrom:
  {{- range . }}
  - secretRef: {name: {{ . | quote }}}
  {{- end }}
{{- end }}
{{- with .Values.gateway.env }}
env:
  {{- range $name, $value := . }}
  - {name: {{ $name | quote }}, value: {{ $value | quote }}}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "tollway.gatewayPod" -}}
{{- $gateway := .Values.gateway -}}
{{- $selector := include "tollway.selector" (dict "root" . "component" "gateway") -}}
metadata:
  labels:
    {{- include "tollway.labels" (dict "root" . "component" "gateway") | nindent 4 }}
    {{- with $gateway.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $gateway.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "tollway.fullname" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext:
    {{- include "tollway.podSecurity" (dict "user" 65532) | nindent 4 }}
  # New requests go elsewhere, then open streams end, then the ledger is flushed; only then may the pod be killed.
  terminationGracePeriodSeconds: {{ add $gateway.preStopSeconds $gateway.drainSeconds $gateway.flushSeconds }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - {name: {{ . | quote }}}
    {{- end }}
  {{- end }}
  {{- with $gateway.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $gateway.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $gateway.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $gateway.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- $selector | nindent 10 }}
    {{- end }}
  containers:
    - name: gateway
      image: {{ include "tollway.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve, --config, /etc/tollway/tollway.yaml]
      workingDir: /var/lib/tollway
      {{- include "tollway.environment" . | nindent 6 }}
      ports:
        - {name: data, containerPort: {{ $gateway.dataPort }}}
        - {name: admin, containerPort: {{ $gateway.adminPort }}}
      # Replaying a dead worker's journal and waiting for the ledger happen behind an open /healthz: readyz waits.
      startupProbe:
        httpGet: {path: /healthz, port: admin}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 30
      livenessProbe:
        httpGet: {path: /healthz, port: admin}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: admin}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      lifecycle:
        preStop:
          sleep: {seconds: {{ $gateway.preStopSeconds }}}
      resources:
        {{- toYaml $gateway.resources | nindent 8 }}
      securityContext:
        {{- include "tollway.containerSecurity" . | nindent 8 }}
      volumeMounts:
        # The folder, never a subPath: the gateway takes over a changed file, and a subPath never changes.
        - {name: config, mountPath: /etc/tollway, readOnly: true}
        - {name: journal, mountPath: /var/lib/tollway}
        - {name: tmp, mountPath: /tmp}
        {{- with $gateway.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "tollway.configMap" . }}}
    - name: tmp
      emptyDir: {sizeLimit: 256Mi}
    {{- if eq $gateway.workload "Deployment" }}
    # Outlives a crash of the container, not the pod.
    - name: journal
      emptyDir: {sizeLimit: {{ $gateway.journal.size }}}
    {{- end }}
    {{- with $gateway.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
