-- admit: one call checks every limit and budget and takes from all, or takes from none: between two calls
-- another worker could take the last dollar. Units and keys: common.lua. Replies ADMITTED, NO_BUDGET, NO_LIMIT,
-- STALE, FORGOTTEN or CLOSED.

-- What one limit says: nil when it has room, else which kind has none and the wait (-1: for ever); with room
-- also the output cap that fits.
local function full(keys, limit, ask, rates, now, burst)
  local requests, tokens, concurrent = limit[LIMIT.requests], limit[LIMIT.tokens], limit[LIMIT.concurrent]
  if concurrent > 0 and slots_in_use(keys, limit[LIMIT.scope], now) >= concurrent then
    return LIMIT_KIND.concurrent, 0
  end
  if requests > 0 then
    local unit = MINUTE / requests
    local wait = rates.requests_at + unit - now - burst
    if wait > unit * ROUNDING then return LIMIT_KIND.requests, wait end
  end
  if tokens > 0 then
    local unit = MINUTE / tokens
    local units = rate_units(ask, limit, least_output(ask, limit))
    if units > tokens then return LIMIT_KIND.tokens, -1 end
    local wait = rates.tokens_at + units * unit - now - burst
    if wait > unit * ROUNDING then return LIMIT_KIND.tokens, wait end
    return nil, nil, fit_rate(ask, limit, math.floor((now + burst - rates.tokens_at) / unit + ROUNDING))
  end
  return nil, nil, ask[ASK.output_tokens]
end

-- Take an ask with this output cap from one limit, as drained to now: notes in `taken` the fields to store and
-- what to show.
local function take(limit, ask, cap, rates, now, taken)
  local scope, requests, tokens = limit[LIMIT.scope], limit[LIMIT.requests], limit[LIMIT.tokens]
  local is_shown = limit[LIMIT.shadow] == 0
  if limit[LIMIT.concurrent] > 0 then taken.slot_scopes[#taken.slot_scopes + 1] = scope end
  if requests > 0 then
    local new = rates.requests_at + MINUTE / requests
    taken.fields[#taken.fields + 1] = 'q|' .. scope
    taken.fields[#taken.fields + 1] = moment(new)
    if is_shown then taken.requests = tighter(taken.requests, requests, new, now) end
  end
  if tokens > 0 then
    local units = rate_units(ask, limit, cap)
    local new = rates.tokens_at + units * MINUTE / tokens
    taken.fields[#taken.fields + 1] = 't|' .. scope
    taken.fields[#taken.fields + 1] = moment(new)
    taken.rows[#taken.rows + 1] = {
      [TAKEN.scope] = scope,
      [TAKEN.per_minute] = tokens,
      [TAKEN.tokens] = units,
      [TAKEN.typical] = limit[LIMIT.typical],
    }
    if is_shown then taken.tokens = tighter(taken.tokens, tokens, new, now) end
  end
end

local function no_limit(index, kind, wait, now)
  return pack({
    NO_LIMIT.tag,
    [NO_LIMIT.limit] = index - 1,
    [NO_LIMIT.kind] = kind,
    [NO_LIMIT.wait] = math.ceil(wait),
    [NO_LIMIT.now] = now,
  })
end

-- Check every limit: the reply that one has no room, or nil; what of them may be taken, by index; those in
-- shadow that would have refused; and the output cap that fits into all.
local function check_limits(keys, spec, ask, stored, now)
  local room, shadowed, most = {}, {}, ask[ASK.output_cap]
  for i, limit in ipairs(spec[SPEC.limits]) do
    local rates, in_shadow = stored.limits[i], limit[LIMIT.shadow] == 1
    drain(keys[KEY.state], limit, rates, now)
    local burst = tonumber(rates.leased_until or '0') > now and MINUTE - RATE_LEASE_LIFE or MINUTE
    local kind, wait, fits = full(keys, limit, ask, rates, now, burst)
    if not kind then
      room[i] = rates
      if not in_shadow then most = math.min(most, fits) end
    elseif in_shadow then
      shadowed[#shadowed + 1] = {[SHADOWED.limit] = i - 1, [SHADOWED.kind] = kind}
    else
      return no_limit(i, kind, wait, now)
    end
  end
  return nil, room, shadowed, most
end

-- The output cap, at most `most`, that fits into the tightest hard budget; or nil and the reply that it has no room.
local function fit_budgets(keys, ask, budgets, most, now)
  local least = tightest(budgets)
  if not least then return most end
  local cap = fit(ask, budgets[least].left)
  if cap then return math.min(cap, most) end
  return nil, no_room(keys[KEY.state], budgets, least, now)
end

local function admitted(cap, nano, now, requests, tokens, shadowed, budgets)
  return pack({
    ADMITTED.tag,
    [ADMITTED.output_tokens] = cap,
    [ADMITTED.nano] = nano,
    [ADMITTED.now] = now,
    [ADMITTED.requests] = requests,
    [ADMITTED.tokens] = tokens,
    [ADMITTED.shadowed] = shadowed,
    [ADMITTED.counters] = shown(budgets),
  })
end

local function hold_row(nano, admitted_at, windows, slot_scopes, taken)
  return {
    [HOLD.nano] = nano,
    [HOLD.admitted_at] = admitted_at,
    [HOLD.windows] = windows,
    [HOLD.slot_scopes] = slot_scopes,
    [HOLD.taken] = taken,
  }
end

local function admit(keys, args)
  local refused, spec, now, stored = begin_hold(keys, args[ADMIT.spec], args[ADMIT.epoch])
  if refused then return refused end
  local ask, state = unpacked(args[ADMIT.ask]), keys[KEY.state]
  local refused, room, shadowed, most = check_limits(keys, spec, ask, stored, now)
  if refused then return refused end
  local budgets = open_all(state, spec, stored, now)
  local cap, over = fit_budgets(keys, ask, budgets, most, now)
  if not cap then return over end

  local nano = hold_nano(ask, cap)
  local taken = {fields = {}, slot_scopes = {}, rows = {}, requests = false, tokens = false}
  for i, limit in ipairs(spec[SPEC.limits]) do
    if room[i] then take(limit, ask, cap, room[i], now, taken) end
  end
  if #taken.fields > 0 then redis.call('HSET', state, unpack(taken.fields)) end
  local windows = hold_money(state, budgets, nano)
  local record = hold_row(nano, now, windows, taken.slot_scopes, taken.rows)
  keep_hold(keys, ask[ASK.hold], ask[ASK.lease], now, record)
  return admitted(cap, nano, now, taken.requests, taken.tokens, shadowed, budgets)
end
