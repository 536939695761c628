-- lease: args epoch, packed plan, packed {slice, nano, requests, tokens, places, lease, worker, slices}: what a
-- worker would like to have so that it can admit from memory. It gets at most 2% of what the tightest budget
-- has left and 10% of what each rate has, shared with all workers and this worker's `slices`; nothing of a
-- budget with less than 5% left or of a rate with less than a quarter, where every request counts exactly.
-- A slice is a hold: it expires, is presumed spent, and is settled like one. Units and keys: common.lua.
-- Replies {1, now, nano, requests, tokens, places, room, counters, requests view, tokens view}; nano -1: nothing
-- is leased. `room` is what the tightest hard budget had left, -1 without any; views as in admit.lua.

local function rate_share(at, per_minute, now, parts)
  local free = per_minute - (at - now) / (MINUTE / per_minute)
  if free * 4 < per_minute then return 0 end
  return math.floor(free / 10 / parts)
end

local function lease(keys, args)
  local plan, want = cmsgpack.unpack(args[2]), cmsgpack.unpack(args[3])
  local now = clock(keys)
  if stale(plan, now) then return pack(STALE, now) end
  local values = read(keys[1], plan)
  if values[1] ~= args[1] then return pack(FORGOTTEN) end
  if closed(plan, values) then return pack(CLOSED, now) end
  redis.call('ZADD', keys[7], text(now + want[6]), want[7])
  local parts = redis.call('ZCARD', keys[7]) * want[8]

  local nano, requests, tokens, places, room = want[2], want[3], want[4], want[5], -1
  local budgets = open_all(keys[1], plan, values, now)
  for _, b in ipairs(budgets) do
    if not b.soft then
      room = room < 0 and b.left or math.min(room, b.left)
      nano = b.left * 20 < b.limit and 0 or math.min(nano, math.floor(b.left / 50 / parts))
    end
  end
  local useless = nano <= 0 and #budgets > 0
  local at = {}
  for i, limit in ipairs(plan[3]) do
    at[i] = {
      drained(keys[1], 'q|' .. limit[1], values[3 * i], now, MINUTE),
      drained(keys[1], 't|' .. limit[1], values[3 * i + 1], now, LONGEST_DEBT),
    }
    if limit[2] > 0 then requests = math.min(requests, rate_share(at[i][1], limit[2], now, parts)) end
    if limit[3] > 0 then tokens = math.min(tokens, rate_share(at[i][2], limit[3], now, parts)) end
    if limit[4] > 0 then
      local free = limit[4] - redis.call('ZCOUNT', keys[6] .. limit[1], text(now), '+inf')
      places = math.min(places, free * 4 < limit[4] and 0 or math.floor(free / 4 / parts))
    end
    useless = useless or (limit[2] > 0 and requests <= 0) or (limit[3] > 0 and tokens <= 0)
      or (limit[4] > 0 and places <= 0) or limit[5] == 1
  end
  if useless then return pack(ADMITTED, now, -1, 0, 0, 0, room, shown(budgets), false, false) end

  local slots, ahead, by_requests, by_tokens = {}, text(now + SLICE_LIFE), false, false
  for i, limit in ipairs(plan[3]) do
    local fields = {}
    if limit[2] > 0 then
      fields[#fields + 1] = 'q|' .. limit[1]
      local new = at[i][1] + requests * MINUTE / limit[2]
      fields[#fields + 1] = string.format('%.17g', new)
      by_requests = tighter(by_requests, limit[2], new, now)
    end
    if limit[3] > 0 then
      fields[#fields + 1] = 't|' .. limit[1]
      local new = at[i][2] + tokens * MINUTE / limit[3]
      fields[#fields + 1] = string.format('%.17g', new)
      by_tokens = tighter(by_tokens, limit[3], new, now)
    end
    if #fields > 0 then redis.call('HSET', keys[1], 'z|' .. limit[1], ahead, unpack(fields)) end
    if limit[4] > 0 then slots[#slots + 1] = limit[1] end
  end
  local held = hold_money(keys[1], budgets, nano)
  keep_hold(keys, want[1], want[6], now, {nano, now, held, slots, {}, places})
  return pack(ADMITTED, now, nano, requests, tokens, places, room, shown(budgets), by_requests, by_tokens)
end
