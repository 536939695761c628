-- After a restart, a failover or a flush the counters may be older than what was spent. The server's identity
-- (run id and replication id) tells: another identity, or none, begins a new epoch, in which whatever has a
-- hard budget stays closed until open holds are registered again and spent is rebuilt from the ledger. The
-- ledger is read once every worker stands still: what it booked before is committed and counted, what it
-- books from then on is neither. Units and keys: common.lua.

-- hello: args identity, name for a new epoch, worker. Replies {1, now, epoch, closed}.
local function hello(keys, args)
  local values = redis.call('HMGET', keys[1], 'epoch', 'identity', 'closed')
  local now = clock(keys)
  if values[1] and values[2] == args[1] then
    if redis.call('HDEL', keys[9], args[3]) == 1 then redis.call('HINCRBY', keys[9], 'turn', 1) end
    return pack(ADMITTED, now, values[1], values[3] and 1 or 0)
  end
  redis.call('DEL', keys[9])
  redis.call('HSET', keys[1], 'epoch', args[2], 'identity', args[1], 'closed', text(now))
  return pack(ADMITTED, now, args[2], 1)
end

-- adopt: args packed plan of all budgets, lease, packed list of {hold, {nano, admitted, budgets, slots,
-- tokens}}. Registers the holds that this server does not know. Replies {1, now}.
local function adopt(keys, args)
  local plan, now = cmsgpack.unpack(args[1]), clock(keys)
  if stale(plan, now) then return pack(STALE, now) end
  for _, b in ipairs(open_all(keys[1], plan, read(keys[1], plan), now)) do
    advance(keys[1], b)
  end
  for _, item in ipairs(cmsgpack.unpack(args[3])) do
    local id, record = item[1], item[2]
    local known = redis.call('HEXISTS', keys[2], id) == 1 or redis.call('HEXISTS', keys[4], id) == 1
    if not known then
      settle_money(keys[1], record[3], -record[1], 0, 0, now)
      keep_hold(keys, id, tonumber(args[2]), now, record)
    end
  end
  return pack(ADMITTED, now)
end

-- stand: args epoch, worker, lease, how many workers it knows of, 1 when it stands still and 0 when not. Replies
-- {1, now, closed since (0: open), workers that stand, workers to wait for, turn}, or {5} in another epoch. The
-- server may have lost who was alive, so workers tell each other.
local function stand(keys, args)
  local now = clock(keys)
  local values = redis.call('HMGET', keys[1], 'epoch', 'closed')
  if values[1] ~= args[1] then return pack(FORGOTTEN) end
  if not values[2] then return pack(ADMITTED, now, 0, 0, 0, 0) end
  redis.call('ZADD', keys[7], text(now + args[3]), args[2])
  local stood = redis.call('HEXISTS', keys[9], args[2]) == 1
  if args[5] == '1' then
    redis.call('HSET', keys[9], args[2], args[4])
  else
    redis.call('HDEL', keys[9], args[2])
  end
  if stood ~= (args[5] == '1') then redis.call('HINCRBY', keys[9], 'turn', 1) end
  local standing, expected = 0, redis.call('ZCOUNT', keys[7], '(' .. text(now), '+inf')
  local all = redis.call('HGETALL', keys[9])
  for i = 1, #all, 2 do
    if all[i] ~= 'turn' then
      standing, expected = standing + 1, math.max(expected, tonumber(all[i + 1]))
    end
  end
  local turn = tonumber(redis.call('HGET', keys[9], 'turn') or '0')
  return pack(ADMITTED, now, tonumber(values[2]), standing, expected, turn)
end

-- Rows are {budget, start, spent, unseen} in the order of the plan's budgets. What was counted since they were
-- computed stays on top; nothing is ever lowered.
local function raise_to(keys, budgets, rows, now)
  for i, row in ipairs(rows) do
    local b = budgets[i]
    advance(keys[1], b)
    if b.part > 0 or b.w == row[2] then
      local held = {{b.name, b.part > 0 and -1 or b.w, b.part}}
      settle_money(keys[1], held, 0, math.max(row[3], 0), math.max(row[4], 0), now)
    end
  end
end

-- restore: args epoch, packed plan of all budgets, packed rows: what the ledger has more than this server had
-- counted just before the ledger was asked, and the turn in which both were read. Opens the budgets. Replies
-- {1, now}, {5} when another worker did it already, or {7, now} when a worker has moved meanwhile.
local function restore(keys, args)
  local plan, now = cmsgpack.unpack(args[2]), clock(keys)
  if stale(plan, now) then return pack(STALE, now) end
  local values = read(keys[1], plan)
  if values[1] ~= args[1] or not values[2] then return pack(FORGOTTEN) end
  if (redis.call('HGET', keys[9], 'turn') or '0') ~= args[4] then return pack(CLOSED, now) end
  raise_to(keys, open_all(keys[1], plan, values, now), cmsgpack.unpack(args[3]), now)
  redis.call('HDEL', keys[1], 'closed')
  redis.call('DEL', keys[9])
  return pack(ADMITTED, now)
end

-- cover: args epoch, packed plan of some budgets, packed rows, as restore has them, for budgets that this server
-- did not count all along. Only who holds the claim may call it. Replies {1, now}.
local function cover(keys, args)
  local plan, now = cmsgpack.unpack(args[2]), clock(keys)
  if stale(plan, now) then return pack(STALE, now) end
  local values = read(keys[1], plan)
  if values[1] ~= args[1] then return pack(FORGOTTEN) end
  raise_to(keys, open_all(keys[1], plan, values, now), cmsgpack.unpack(args[3]), now)
  return pack(ADMITTED, now)
end

-- leave: args worker, which stops. Replies {1, now}.
local function leave(keys, args)
  redis.call('ZREM', keys[7], args[1])
  if redis.call('HDEL', keys[9], args[1]) == 1 then redis.call('HINCRBY', keys[9], 'turn', 1) end
  return pack(ADMITTED, clock(keys))
end
