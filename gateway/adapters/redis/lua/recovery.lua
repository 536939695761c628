-- After a restart, a failover or a flush the counters may be older than what was spent. The server's identity
-- (run id and replication id) tells: another identity, or none, begins a new epoch, in which whatever has a
-- hard budget stays closed until open holds are registered again and spent is rebuilt from the ledger.
-- Units and keys: common.lua.

-- hello: args identity, name for a new epoch. Replies {1, now, epoch, closed}.
local function hello(keys, args)
  local values = redis.call('HMGET', keys[1], 'epoch', 'identity', 'closed')
  local now = clock(keys)
  if values[1] and values[2] == args[1] then return pack(ADMITTED, now, values[1], values[3] and 1 or 0) end
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

-- Rows are {budget, start, spent, unseen} in the order of the plan's budgets. What was counted since they were
-- computed stays on top, so that a settlement on its way is never forgotten; nothing is ever lowered.
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
-- counted just before the ledger was asked. Opens the budgets. Replies {1, now}, or {5} when another worker
-- did it already.
local function restore(keys, args)
  local plan, now = cmsgpack.unpack(args[2]), clock(keys)
  if stale(plan, now) then return pack(STALE, now) end
  local values = read(keys[1], plan)
  if values[1] ~= args[1] or not values[2] then return pack(FORGOTTEN) end
  raise_to(keys, open_all(keys[1], plan, values, now), cmsgpack.unpack(args[3]), now)
  redis.call('HDEL', keys[1], 'closed')
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
