{{- /* A pod of a pool. Takes (dict "root" $ "name" N "pool" P "role" R); the role is alone, leader or worker. */ -}}
{{- define "tollway.poolPod" -}}
{{- $pool := .pool -}}
{{- $grace := add $pool.shutdownSeconds 20 -}}
metadata:
  labels:
    {{- include "tollway.labels" (dict "root" .root "component" "pool") | nindent 4 }}
    tollway/pool: {{ .name }}
    {{- if ne .role "alone" }}
    tollway/role: {{ .role }}
    {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  # Longer than vLLM's own shutdown, or what is under way breaks.
  terminationGracePeriodSeconds: {{ $grace }}
  securityContext:
    {{- include "tollway.podSecurity" (dict "user" 2000) | nindent 4 }}
  {{- with $pool.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pool.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: vllm
      image: {{ $pool.image | quote }}
      command: [vllm, serve]
      args:
        - {{ $pool.model | quote }}
        - --host=0.0.0.0
        - --port={{ $pool.port }}
        - --tensor-parallel-size={{ $pool.gpusPerNode }}
        {{- if ne .role "alone" }}
        - --pipeline-parallel-size={{ $pool.nodes }}
        - --nnodes=$(LWS_GROUP_SIZE)
        - --node-rank=$(LWS_WORKER_INDEX)
        - --master-addr=$(LWS_LEADER_ADDRESS)
        {{- end }}
        {{- if eq .role "worker" }}
        - --headless
        {{- end }}
        - --shutdown-timeout={{ $pool.shutdownSeconds }}
        {{- range $pool.args }}
        - {{ . | quote }}
        {{- end }}
      env:
        - {name: HF_HOME, value: /models}
        {{- if not $pool.allowDownload }}
        - {name: HF_HUB_OFFLINE, value: "1"}
        {{- end }}
        # The user has no entry in the image, and everything that is compiled at start needs a place.
        - {name: HOME, value: /tmp/home}
        - {name: USER, value: vllm}
        - {name: VLLM_NO_USAGE_STATS, value: "1"}
        {{- with $pool.tokenSecret }}
        {{- if .name }}
        - name: HF_TOKEN
          valueFrom:
            secretKeyRef: {name: {{ .name | quote }}, key: {{ .key | quote }}}
        {{- end }}
        {{- end }}
        {{- range $name, $value := $pool.env }}
        - {name: {{ $name | quote }}, value: {{ $value | quote }}}
        {{- end }}
      {{- if ne .role "worker" }}
      ports:
        - {name: http, containerPort: {{ $pool.port }}}
      startupProbe:
        httpGet: {path: /health, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: {{ div (add $pool.startSeconds 9) 10 }}
      # 503 when the engine is dead, which only a restart mends.
      livenessProbe:
        httpGet: {path: /health, port: http}
        periodSeconds: 10
        timeoutSeconds: 10
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /health, port: http}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 3
      lifecycle:
        preStop:
          sleep: {seconds: 5}
      {{- end }}
      {{- $resources := deepCopy $pool.resources }}
      {{- $_ := set $resources.requests $pool.gpuResource $pool.gpusPerNode }}
      {{- $_ := set $resources.limits $pool.gpuResource $pool.gpusPerNode }}
      resources:
        {{- toYaml $resources | nindent 8 }}
      securityContext:
        {{- include "tollway.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: weights, mountPath: /models}
        - {name: shm, mountPath: /dev/shm}
        - {name: tmp, mountPath: /tmp}
  volumes:
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ $pool.sharedMemory }}}
    - name: tmp
      emptyDir: {sizeLimit: 32Gi}
    {{- if $pool.weightsClaim }}
    - name: weights
      persistentVolumeClaim: {claimName: {{ $pool.weightsClaim }}}
    {{- else if ne $pool.kind "StatefulSet" }}
    - name: weights
      ephemeral:
        volumeClaimTemplate:
          spec:
            {{- include "tollway.weights" $pool | nindent 12 }}
    {{- end }}
{{- end -}}

{{- define "tollway.weights" -}}
accessModes: [ReadWriteOnce]
{{- with .weightsStorageClass }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests: {storage: {{ .weightsSize }}}
{{- end -}}
