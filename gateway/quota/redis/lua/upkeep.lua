-- heartbeat: args lease, packed list of holds. Holds that are still open here live for another lease.
-- Replies {1, now}. Units and keys: common.lua.
local function heartbeat(keys, args)
  local now = clock(keys)
  local due = text(now + tonumber(args[1]))
  for _, id in ipairs(cmsgpack.unpack(args[2])) do
    local packed = redis.call('HGET', keys[2], id)
    if packed then
      redis.call('ZADD', keys[3], due, id)
      keep_places(keys, id, cmsgpack.unpack(packed), due)
    end
  end
  return pack(ADMITTED, now)
end

-- sweep: args most holds to take. The worker of a hold whose lease has ended went away after it may have
-- dispatched the request, so all of it counts as unseen until it is settled or the ledger tells more.
-- Replies {1, now, swept}.
local function sweep(keys, args)
  local now, swept = clock(keys), 0
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', keys[3], '-inf', text(now), 'LIMIT', 0, args[1])) do
    local packed = redis.call('HGET', keys[2], id)
    if packed then
      local record = cmsgpack.unpack(packed)
      settle_money(keys[1], record[3], record[1], 0, record[1], now)
      drop_hold(keys, id, record)
      redis.call('HSET', keys[4], id, packed)
      swept = swept + 1
    else
      redis.call('ZREM', keys[3], id)
    end
  end
  return pack(ADMITTED, now, swept)
end

-- look: args packed plan, worker, lease. Replies {1, now, epoch, counters, presumed, workers}; writes only
-- that this worker is alive.
local function look(keys, args)
  local plan, now = cmsgpack.unpack(args[1]), clock(keys)
  if stale(plan, now) then return pack(STALE, now) end
  redis.call('ZADD', keys[7], text(now + tonumber(args[3])), args[2])
  redis.call('ZREMRANGEBYSCORE', keys[7], '-inf', text(now))
  local values = read(keys[1], plan)
  local budgets = open_all(keys[1], plan, values, now)
  local presumed = redis.call('HLEN', keys[4])
  return pack(ADMITTED, now, values[1], shown(budgets), presumed, redis.call('ZCARD', keys[7]))
end

-- peek: args packed plan. Replies {1, now, counters} and writes nothing: for those who only want to know.
local function peek(keys, args)
  local plan, now = cmsgpack.unpack(args[1]), clock(keys)
  if stale(plan, now) then return pack(STALE, now) end
  return pack(ADMITTED, now, shown(open_all(keys[1], plan, read(keys[1], plan), now)))
end

-- claim: args name, seconds. Replies {1, now, 1} to the first worker that asks within these seconds, else 0.
local function claim(keys, args)
  local done = redis.call('SET', keys[8] .. args[1], 1, 'NX', 'EX', args[2])
  return pack(ADMITTED, clock(keys), done and 1 or 0)
end

-- unclaim: args name. Gives back what `claim` gave. Replies {1, now}.
local function unclaim(keys, args)
  redis.call('DEL', keys[8] .. args[1])
  return pack(ADMITTED, clock(keys))
end

-- seat: args lease, packed list of {hold, scopes}: open holds that get a place in scopes which had no limit on
-- them when they were taken. Replies {1, now}.
local function seat(keys, args)
  local now = clock(keys)
  local due = text(now + tonumber(args[1]))
  for _, item in ipairs(cmsgpack.unpack(args[2])) do
    local packed = redis.call('HGET', keys[2], item[1])
    if packed then
      local record, has = cmsgpack.unpack(packed), {}
      for _, scope in ipairs(record[4]) do has[scope] = true end
      for _, scope in ipairs(item[2]) do
        if not has[scope] then record[4][#record[4] + 1] = scope end
      end
      redis.call('HSET', keys[2], item[1], cmsgpack.pack(record))
      keep_places(keys, item[1], record, due)
    end
  end
  return pack(ADMITTED, now)
end
