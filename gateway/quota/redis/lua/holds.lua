-- Open holds: stored with a lease, and with a slot in each scope that limits concurrency. Units: common.lua.

-- The name of the hold's slot with this number; a quota lease has several in a scope.
local function slot(id, number)
  if number == 1 then return id end
  return id .. '#' .. number
end

local function keep_slots(keys, id, record, due)
  for _, scope in ipairs(record[HOLD.slot_scopes]) do
    for number = 1, record[HOLD.slots] or 1 do
      redis.call('ZADD', keys[KEY.slots] .. scope, due, slot(id, number))
    end
  end
end

local function drop_slots(keys, id, record, from)
  for _, scope in ipairs(record[HOLD.slot_scopes]) do
    for number = from, record[HOLD.slots] or 1 do
      redis.call('ZREM', keys[KEY.slots] .. scope, slot(id, number))
    end
  end
end

local function slots_in_use(keys, scope, now)
  return redis.call('ZCOUNT', keys[KEY.slots] .. scope, text(now), '+inf')
end

local function keep_hold(keys, id, lease, now, record)
  redis.call('HSET', keys[KEY.holds], id, pack(record))
  redis.call('ZADD', keys[KEY.due], text(now + lease), id)
  keep_slots(keys, id, record, text(now + lease))
end

local function drop_hold(keys, id, record)
  redis.call('HDEL', keys[KEY.holds], id)
  redis.call('ZREM', keys[KEY.due], id)
  drop_slots(keys, id, record, 1)
end

-- The stored hold, or nil.
local function open_hold(keys, id)
  local packed = redis.call('HGET', keys[KEY.holds], id)
  return packed and unpacked(packed) or nil
end

-- A worker counts as alive for another lease.
local function keep_alive(keys, worker, lease, now)
  redis.call('ZADD', keys[KEY.alive], text(now + lease), worker)
end
