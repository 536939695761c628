-- After a restart, a failover or a flush the counters may be older than what was spent. The server's identity
-- (run id and replication id) shows it: another identity, or none, begins a new epoch, in which whatever has a
-- hard budget stays closed until open holds are registered again and spent is rebuilt from the ledger. The
-- ledger is read once every worker has paused: what it booked before is committed and counted, what it
-- books from then on is neither. Units and keys: common.lua.

-- One more or one less worker has paused: what was read of the ledger before is out of date.
local function next_generation(keys)
  redis.call('HINCRBY', keys[KEY.ready], 'turn', 1)
end

local function not_ready(keys, worker)
  if redis.call('HDEL', keys[KEY.ready], worker) == 1 then next_generation(keys) end
end

local function epoch_entered(now, epoch, closed)
  return pack({
    EPOCH_ENTERED.tag,
    [EPOCH_ENTERED.now] = now,
    [EPOCH_ENTERED.epoch] = epoch,
    [EPOCH_ENTERED.closed] = closed,
  })
end

-- enter_epoch: a worker connects. Of a server with another identity it begins the epoch `fresh`. Replies
-- EPOCH_ENTERED.
local function enter_epoch(keys, args)
  local state, identity, fresh = keys[KEY.state], args[ENTER_EPOCH.identity], args[ENTER_EPOCH.fresh]
  local epoch, known, closed = unpack(redis.call('HMGET', state, 'epoch', 'identity', 'closed'))
  local now = clock(keys)
  if epoch and known == identity then
    not_ready(keys, args[ENTER_EPOCH.worker])
    return epoch_entered(now, epoch, closed and 1 or 0)
  end
  redis.call('DEL', keys[KEY.ready])
  redis.call('HSET', state, 'epoch', fresh, 'identity', identity, 'closed', text(now))
  return epoch_entered(now, fresh, 1)
end

-- register_holds: registers the holds that this server does not know; the spec is of all budgets. Replies APPLIED
-- or STALE.
local function register_holds(keys, args)
  local refused, spec, now, stored = begin(keys, args[REGISTER_HOLDS.spec])
  if refused then return refused end
  local state, holds, presumed = keys[KEY.state], keys[KEY.holds], keys[KEY.presumed]
  for _, b in ipairs(open_all(state, spec, stored, now)) do
    advance(state, b)
  end
  for _, item in ipairs(unpacked(args[REGISTER_HOLDS.holds])) do
    local id, record = item[OPEN_HOLD.hold], item[OPEN_HOLD.record]
    local known = redis.call('HEXISTS', holds, id) == 1 or redis.call('HEXISTS', presumed, id) == 1
    if not known then
      settle_money(state, record[HOLD.windows], -record[HOLD.nano], 0, 0, now)
      keep_hold(keys, id, tonumber(args[REGISTER_HOLDS.lease]), now, record)
    end
  end
  return applied(now)
end

local function barrier_status(now, closed_since, ready, expected, generation)
  return pack({
    BARRIER_STATUS.tag,
    [BARRIER_STATUS.now] = now,
    [BARRIER_STATUS.closed_since] = closed_since,
    [BARRIER_STATUS.ready] = ready,
    [BARRIER_STATUS.expected] = expected,
    [BARRIER_STATUS.generation] = generation,
  })
end

-- barrier: a worker says whether it has paused (ready 1) or not (0), and how many workers it knows of: the
-- server may have lost who was alive, so workers exchange it. Replies BARRIER_STATUS, or FORGOTTEN in
-- another epoch.
local function barrier(keys, args)
  local now, worker, is_ready = clock(keys), args[BARRIER.worker], args[BARRIER.ready] == '1'
  local epoch, closed = unpack(redis.call('HMGET', keys[KEY.state], 'epoch', 'closed'))
  if epoch ~= args[BARRIER.epoch] then return pack({FORGOTTEN.tag}) end
  if not closed then return barrier_status(now, 0, 0, 0, 0) end
  keep_alive(keys, worker, tonumber(args[BARRIER.lease]), now)
  local was_ready = redis.call('HEXISTS', keys[KEY.ready], worker) == 1
  if is_ready then
    redis.call('HSET', keys[KEY.ready], worker, args[BARRIER.known_workers])
    if not was_ready then next_generation(keys) end
  else
    not_ready(keys, worker)
  end
  local ready, generation = 0, 0
  local expected = redis.call('ZCOUNT', keys[KEY.alive], '(' .. text(now), '+inf')
  local all = redis.call('HGETALL', keys[KEY.ready])
  for i = 1, #all, 2 do
    local name, value = all[i], tonumber(all[i + 1])
    if name == 'turn' then
      generation = value
    else
      ready, expected = ready + 1, math.max(expected, value)
    end
  end
  return barrier_status(now, tonumber(closed), ready, expected, generation)
end

-- Rows are MISSING, in the order of the spec's budgets. What was counted since they were computed stays on top;
-- nothing is ever lowered.
local function add_rows(keys, budgets, rows, now)
  for i, row in ipairs(rows) do
    local b = budgets[i]
    advance(keys[KEY.state], b)
    if b.part > 0 or b.start == row[MISSING.start] then
      local spent, unseen = math.max(row[MISSING.spent], 0), math.max(row[MISSING.unseen], 0)
      settle_money(keys[KEY.state], {window_of(b)}, 0, spent, unseen, now)
    end
  end
end

-- restore: adds what the ledger has more than this server had counted just before the ledger was read, and
-- opens the budgets; the spec is of all budgets. Replies APPLIED, STALE, FORGOTTEN when another worker did it
-- already, or CLOSED when a worker has moved since the generation in which both were read.
local function restore(keys, args)
  local refused, spec, now, stored = begin(keys, args[RESTORE.spec], args[RESTORE.epoch])
  if refused then return refused end
  if not stored.closed then return pack({FORGOTTEN.tag}) end
  local generation = redis.call('HGET', keys[KEY.ready], 'turn') or '0'
  if generation ~= args[RESTORE.generation] then return pack({CLOSED.tag, [CLOSED.now] = now}) end
  add_rows(keys, open_all(keys[KEY.state], spec, stored, now), unpacked(args[RESTORE.rows]), now)
  redis.call('HDEL', keys[KEY.state], 'closed')
  redis.call('DEL', keys[KEY.ready])
  return applied(now)
end

-- add_missing: as restore, for budgets that this server did not count all along. Only who holds the claim may
-- call it. Replies APPLIED, STALE or FORGOTTEN.
local function add_missing(keys, args)
  local refused, spec, now, stored = begin(keys, args[ADD_MISSING.spec], args[ADD_MISSING.epoch])
  if refused then return refused end
  add_rows(keys, open_all(keys[KEY.state], spec, stored, now), unpacked(args[ADD_MISSING.rows]), now)
  return applied(now)
end

-- deregister: a worker stops. Replies APPLIED.
local function deregister(keys, args)
  redis.call('ZREM', keys[KEY.alive], args[DEREGISTER.worker])
  not_ready(keys, args[DEREGISTER.worker])
  return applied(clock(keys))
end
