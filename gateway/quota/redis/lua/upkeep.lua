-- What workers do from time to time. Units and keys: common.lua.

-- heartbeat: holds that are still open here live for another lease. Replies APPLIED.
local function heartbeat(keys, args)
  local now = clock(keys)
  local due = text(now + tonumber(args[HEARTBEAT.lease]))
  for _, id in ipairs(unpacked(args[HEARTBEAT.holds])) do
    local record = open_hold(keys, id)
    if record then
      redis.call('ZADD', keys[KEY.due], due, id)
      keep_slots(keys, id, record, due)
    end
  end
  return applied(now)
end

-- sweep: the worker of a hold whose lease has ended died after it may have dispatched the request, so all of it
-- counts as unseen until it is settled or the ledger has more. Replies SWEPT.
local function sweep(keys, args)
  local now, swept = clock(keys), 0
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', keys[KEY.due], '-inf', text(now), 'LIMIT', 0, args[SWEEP.most])) do
    local record = open_hold(keys, id)
    if record then
      local nano = record[HOLD.nano]
      settle_money(keys[KEY.state], record[HOLD.windows], nano, 0, nano, now)
      drop_hold(keys, id, record)
      redis.call('HSET', keys[KEY.presumed], id, pack(record))
      swept = swept + 1
    else
      redis.call('ZREM', keys[KEY.due], id)
    end
  end
  return pack({SWEPT.tag, [SWEPT.now] = now, [SWEPT.holds] = swept})
end

-- snapshot: the counters; writes only that this worker is alive. Fails where an admission would, for what stands
-- under the keys. Replies SNAPSHOT_TAKEN or STALE.
local function snapshot(keys, args)
  local refused, spec, now, stored = begin(keys, args[SNAPSHOT.spec])
  if refused then return refused end
  keep_alive(keys, args[SNAPSHOT.worker], tonumber(args[SNAPSHOT.lease]), now)
  redis.call('ZREMRANGEBYSCORE', keys[KEY.alive], '-inf', text(now))
  redis.call('HLEN', keys[KEY.holds])
  for _, limit in ipairs(spec[SPEC.limits]) do
    if limit[LIMIT.concurrent] > 0 then redis.call('ZCARD', keys[KEY.slots] .. limit[LIMIT.scope]) end
  end
  return pack({
    SNAPSHOT_TAKEN.tag,
    [SNAPSHOT_TAKEN.now] = now,
    [SNAPSHOT_TAKEN.epoch] = stored.epoch,
    [SNAPSHOT_TAKEN.counters] = shown(open_all(keys[KEY.state], spec, stored, now)),
    [SNAPSHOT_TAKEN.presumed] = redis.call('HLEN', keys[KEY.presumed]),
    [SNAPSHOT_TAKEN.workers] = redis.call('ZCARD', keys[KEY.alive]),
  })
end

-- read_budgets: the counters, for those who only want to know: writes nothing. Replies BUDGETS_READ or STALE.
local function read_budgets(keys, args)
  local refused, spec, now, stored = begin(keys, args[READ_BUDGETS.spec])
  if refused then return refused end
  local counters = shown(open_all(keys[KEY.state], spec, stored, now))
  return pack({BUDGETS_READ.tag, [BUDGETS_READ.now] = now, [BUDGETS_READ.counters] = counters})
end

-- claim: replies CLAIMED, first to one worker within these seconds.
local function claim(keys, args)
  local first = redis.call('SET', keys[KEY.claim] .. args[CLAIM.name], 1, 'NX', 'EX', args[CLAIM.seconds])
  return pack({CLAIMED.tag, [CLAIMED.now] = clock(keys), [CLAIMED.first] = first and 1 or 0})
end

-- release_claim: gives back what `claim` gave. Replies APPLIED.
local function release_claim(keys, args)
  redis.call('DEL', keys[KEY.claim] .. args[RELEASE_CLAIM.name])
  return applied(clock(keys))
end

-- add_slots: open holds get a slot in scopes which had no limit on them when they were taken. Replies APPLIED.
local function add_slots(keys, args)
  local now = clock(keys)
  local due = text(now + tonumber(args[ADD_SLOTS.lease]))
  for _, row in ipairs(unpacked(args[ADD_SLOTS.rows])) do
    local id = row[NEW_SLOTS.hold]
    local record, has = open_hold(keys, id), {}
    if record then
      local scopes = record[HOLD.slot_scopes]
      for _, scope in ipairs(scopes) do has[scope] = true end
      for _, scope in ipairs(row[NEW_SLOTS.scopes]) do
        if not has[scope] then scopes[#scopes + 1] = scope end
      end
      redis.call('HSET', keys[KEY.holds], id, pack(record))
      keep_slots(keys, id, record, due)
    end
  end
  return applied(now)
end
