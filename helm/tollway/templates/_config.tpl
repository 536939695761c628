{{- /* tollway.yaml as values; empty when it is in a ConfigMap of your own, which cannot be read from here. */ -}}
{{- define "tollway.config" -}}
{{- if .Values.config.text -}}
{{- $config := fromYaml .Values.config.text -}}
{{- if hasKey $config "Error" -}}{{- fail (printf "config.text: is no YAML: %s" $config.Error) -}}{{- end -}}
{{- toJson $config -}}
{{- else -}}
{}
{{- end -}}
{{- end -}}

{{- /* What would only fail once pods run, or leak, fails here. */ -}}
{{- define "tollway.check" -}}
{{- $values := .Values -}}
{{- if and $values.config.text $values.config.existingConfigMap -}}
{{- fail "config: set text or existingConfigMap, not both" -}}
{{- end -}}
{{- if not (or $values.config.text $values.config.existingConfigMap) -}}
{{- fail "config: set text (--set-file config.text=tollway.yaml) or existingConfigMap" -}}
{{- end -}}
{{- if and $values.autoscaling.enabled (lt (int $values.autoscaling.max) (int $values.autoscaling.min)) -}}
{{- fail "autoscaling.max: must not be less than min" -}}
{{- end -}}
{{- if and $values.redis.enabled (not $values.redis.passwordSecret.name) -}}
{{- fail "redis.passwordSecret.name: name the Secret that holds the password of the Valkey in the cluster" -}}
{{- end -}}
{{- if and $values.postgresql.enabled (not $values.postgresql.passwordSecret.name) -}}
{{- fail "postgresql.passwordSecret.name: name the Secret that holds the password of the PostgreSQL in the cluster" -}}
{{- end -}}
{{- if and $values.monitoring.serviceMonitor.enabled (not $values.monitoring.serviceMonitor.tokenSecret.name) -}}
{{- fail "monitoring.serviceMonitor.tokenSecret.name: name the Secret that holds the admin token; /metrics asks for it" -}}
{{- end -}}
{{- if $values.config.text -}}
{{- include "tollway.checkConfig" . -}}
{{- end -}}
{{- end -}}

{{- define "tollway.checkConfig" -}}
{{- $values := .Values -}}
{{- $config := include "tollway.config" . | fromJson -}}
{{- $server := $config.server | default dict -}}
{{- range $port, $expected := dict "data" $values.gateway.dataPort "admin" $values.gateway.adminPort -}}
{{- $listener := get $server $port | default dict -}}
{{- if not (has ($listener.host | default "127.0.0.1") (list "0.0.0.0" "::")) -}}
{{- fail (printf "config.text: server.%s.host: must be 0.0.0.0 (or \"::\"), or nothing reaches the pod" $port) -}}
{{- end -}}
{{- if ne (toString ($listener.port | default (ternary 8080 8081 (eq $port "data")))) (toString $expected) -}}
{{- fail (printf "config.text: server.%s.port: must be gateway.%sPort, %v" $port $port $expected) -}}
{{- end -}}
{{- end -}}
{{- if ne (float64 ($server.drain_seconds | default 30)) (float64 $values.gateway.drainSeconds) -}}
{{- fail (printf "config.text: server.drain_seconds: must be gateway.drainSeconds, %v: pods are killed by the latter" $values.gateway.drainSeconds) -}}
{{- end -}}
{{- if not (hasPrefix "/var/lib/tollway" ($server.journal_dir | default "/var/lib/tollway")) -}}
{{- fail "config.text: server.journal_dir: must be within /var/lib/tollway, the only volume that is written to" -}}
{{- end -}}
{{- if gt (int (include "tollway.maxReplicas" .)) 1 -}}
{{- if eq ($config.state | default "memory") "memory" -}}
{{- fail "config.text: state: several pods need a state that they share: redis://... (or replicas 1 without autoscaling)" -}}
{{- end -}}
{{- if hasPrefix "sqlite" ($config.ledger | default "sqlite") -}}
{{- fail "config.text: ledger: several pods need a ledger that they share: postgresql://... (or replicas 1 without autoscaling)" -}}
{{- end -}}
{{- if not ($config.audit | default dict).signing_key -}}
{{- fail "config.text: audit.signing_key: several pods must sign the audit log with one key: \"${TOLLWAY_AUDIT_KEY}\", made by `tollway audit keygen`" -}}
{{- end -}}
{{- end -}}
{{- $secrets := dict "server.admin.token" ($server.admin | default dict).token "server.key_pepper" $server.key_pepper "audit.signing_key" ($config.audit | default dict).signing_key -}}
{{- range $name, $deployment := $config.deployments -}}
{{- $_ := set $secrets (printf "deployments.%s.api_key" $name) $deployment.api_key -}}
{{- end -}}
{{- range $name, $key := $config.keys -}}
{{- $_ := set $secrets (printf "keys.%s.secret" $name) $key.secret -}}
{{- end -}}
{{- range $path, $value := $secrets -}}
{{- if and $value (not (regexMatch "\\$\\{\\w+\\}" (toString $value))) -}}
{{- fail (printf "config.text: %s: is written out, and a ConfigMap is no place for secrets: use \"${NAME}\" and a Secret listed in `secrets`" $path) -}}
{{- end -}}
{{- end -}}
{{- range $path := list "state" "ledger" -}}
{{- if regexMatch "://[^/@]*:[^/@$]+@" (toString (get $config $path)) -}}
{{- fail (printf "config.text: %s: has a password in it, and a ConfigMap is no place for secrets: use \"${NAME}\" and a Secret listed in `secrets`" $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* "true" where some deployment's zone has no cidrs, that is may be anywhere. */ -}}
{{- define "tollway.goesOutside" -}}
{{- if eq .Values.networkPolicy.external "always" -}}true
{{- else if eq .Values.networkPolicy.external "auto" -}}
{{- $config := include "tollway.config" . | fromJson -}}
{{- $outside := false -}}
{{- range $deployment := $config.deployments -}}
{{- if not (get ($config.zones | default dict) $deployment.zone | default dict).cidrs -}}{{- $outside = true -}}{{- end -}}
{{- end -}}
{{- if $outside -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{- /* An egress rule to public addresses only. */ -}}
{{- define "tollway.publicPeers" -}}
- to:
    - ipBlock:
        cidr: 0.0.0.0/0
        except:
          {{- toYaml .Values.networkPolicy.privateRanges | nindent 10 }}
    - ipBlock: {cidr: "::/0", except: ["fc00::/7", "fe80::/10"]}
  ports:
    {{- range .Values.networkPolicy.externalPorts }}
    - {port: {{ . }}}
    {{- end }}
{{- end -}}
