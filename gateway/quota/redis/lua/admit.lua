-- admit: args epoch, packed plan, packed ask. One call checks every limit and budget and takes from all, or
-- takes from none: between two calls another worker could take the last dollar. Units and keys: common.lua.
-- Replies {1, cap, nano, now, requests, tokens, shadowed, counters}, requests and tokens being {limit,
-- remaining, reset} of the tightest; {2, budget, w, s, h, u, now}; {3, limit, kind, wait, now};
-- {4, now} when the plan is not for this moment; {5} when the counters are not those of this epoch;
-- {7, now} while they are being rebuilt.

-- What one limit says: nil when it has room, else which kind has none and the wait (-1: for ever); with room
-- also the output cap that fits.
local function full(keys, limit, ask, at, now, burst)
  if limit[4] > 0 and redis.call('ZCOUNT', keys[6] .. limit[1], text(now), '+inf') >= limit[4] then
    return 'c', 0
  end
  if limit[2] > 0 then
    local unit = MINUTE / limit[2]
    local wait = at[1] + unit - now - burst
    if wait > unit * ROUNDING then return 'q', wait end
  end
  if limit[3] > 0 then
    local unit = MINUTE / limit[3]
    local units = rate_units(ask, least_output(ask, limit[3]))
    if units > limit[3] then return 't', -1 end
    local wait = at[2] + units * unit - now - burst
    if wait > unit * ROUNDING then return 't', wait end
    return nil, nil, fit_rate(ask, math.floor((now + burst - at[2]) / unit + ROUNDING))
  end
  return nil, nil, ask[4]
end

local function tighter(view, per_minute, at, now)
  local remaining = math.max(math.floor(per_minute - (at - now) / (MINUTE / per_minute) + ROUNDING), 0)
  if view and view[2] <= remaining then return view end
  return {per_minute, remaining, math.floor(at - now)}
end

-- Take from one limit; returns the fields to store.
local function take(limit, units, at, now, taken)
  if limit[4] > 0 then taken.slots[#taken.slots + 1] = limit[1] end
  if limit[2] > 0 then
    local new = at[1] + MINUTE / limit[2]
    taken.fields[#taken.fields + 1] = 'q|' .. limit[1]
    taken.fields[#taken.fields + 1] = string.format('%.17g', new)
    if limit[5] == 0 then taken.requests = tighter(taken.requests, limit[2], new, now) end
  end
  if limit[3] > 0 then
    local new = at[2] + units * MINUTE / limit[3]
    taken.fields[#taken.fields + 1] = 't|' .. limit[1]
    taken.fields[#taken.fields + 1] = string.format('%.17g', new)
    taken.tokens_of[#taken.tokens_of + 1] = {limit[1], limit[3], units}
    if limit[5] == 0 then taken.tokens = tighter(taken.tokens, limit[3], new, now) end
  end
end

local function admit(keys, args)
  local plan, ask = cmsgpack.unpack(args[2]), cmsgpack.unpack(args[3])
  local now = clock(keys)
  if stale(plan, now) then return pack(STALE, now) end
  local values = read(keys[1], plan)
  if values[1] ~= args[1] then return pack(FORGOTTEN) end
  if closed(plan, values) then return pack(CLOSED, now) end

  local room, shadowed, most = {}, {}, ask[9]
  for i, limit in ipairs(plan[3]) do
    local at = {
      drained(keys[1], 'q|' .. limit[1], values[3 * i], now, MINUTE),
      drained(keys[1], 't|' .. limit[1], values[3 * i + 1], now, LONGEST_DEBT),
    }
    local burst = tonumber(values[3 * i + 2] or '0') > now and MINUTE - SLICE_LIFE or MINUTE
    local kind, wait, fits = full(keys, limit, ask, at, now, burst)
    if not kind then
      room[i] = at
      if limit[5] == 0 then most = math.min(most, fits) end
    elseif limit[5] == 1 then
      shadowed[#shadowed + 1] = {i - 1, kind}
    else
      return pack(NO_LIMIT, i - 1, kind, math.ceil(wait), now)
    end
  end
  local budgets = open_all(keys[1], plan, values, now)
  local cap, least = most, tightest(budgets)
  if least then
    cap = fit(ask, budgets[least].left)
    if cap then
      cap = math.min(cap, most)
    else
      return no_room(keys[1], budgets, least, now)
    end
  end

  local nano, units = hold_nano(ask, cap), rate_units(ask, cap)
  local taken = {fields = {}, slots = {}, tokens_of = {}, requests = false, tokens = false}
  for i, limit in ipairs(plan[3]) do
    if room[i] then take(limit, units, room[i], now, taken) end
  end
  if #taken.fields > 0 then redis.call('HSET', keys[1], unpack(taken.fields)) end
  local held = hold_money(keys[1], budgets, nano)
  keep_hold(keys, ask[1], ask[7], now, {nano, now, held, taken.slots, taken.tokens_of})
  return pack(ADMITTED, cap, nano, now, taken.requests, taken.tokens, shadowed, shown(budgets))
end
