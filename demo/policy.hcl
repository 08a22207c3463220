# What the demo's AppRole may do; the README explains each line.
path "secret/data/agents/weather" {
  capabilities = ["read"]
}
path "database/creds/agent-read-only" {
  capabilities = ["read"]
}
path "sys/leases/revoke" {
  capabilities = ["update"]
}
