-- lease: what a worker would like to hold ahead so that it can admit from memory. It gets at most 2% of what
-- the tightest budget has left and 10% of what each rate has, shared with all workers and this worker's other
-- quota leases; nothing of a budget with less than 5% left or of a rate with less than a quarter, where every
-- request counts exactly. A quota lease is a hold: it expires, is presumed spent, and is settled like one.
-- Units and keys: common.lua. Replies LEASED, STALE, FORGOTTEN or CLOSED.

local function rate_share(at, per_minute, now, parts)
  local free = per_minute - (at - now) / (MINUTE / per_minute)
  if free * 4 < per_minute then return 0 end
  return math.floor(free / 10 / parts)
end

local function slot_share(keys, scope, concurrent, now, parts)
  local free = concurrent - slots_in_use(keys, scope, now)
  return free * 4 < concurrent and 0 or math.floor(free / 4 / parts)
end

-- The part of the budgets that may be leased, and what the tightest hard one has left, -1 without any.
local function money_share(budgets, wanted, parts)
  local nano, room = wanted, -1
  for _, b in ipairs(budgets) do
    if not b.soft then
      room = room < 0 and b.left or math.min(room, b.left)
      nano = b.left * 20 < b.limit and 0 or math.min(nano, math.floor(b.left / 50 / parts))
    end
  end
  return nano, room
end

-- Where `got` has the tokens that one limit goes by.
local function tokens_of(limit)
  return limit[LIMIT.typical] == 1 and 'typical_tokens' or 'tokens'
end

-- Lowers `got` to the part of one limit that may be leased; true when that leaves nothing to admit from.
local function share_limit(keys, limit, rates, got, now, parts)
  local requests, tokens, concurrent = limit[LIMIT.requests], limit[LIMIT.tokens], limit[LIMIT.concurrent]
  local held = tokens_of(limit)
  if requests > 0 then got.requests = math.min(got.requests, rate_share(rates.requests_at, requests, now, parts)) end
  if tokens > 0 then got[held] = math.min(got[held], rate_share(rates.tokens_at, tokens, now, parts)) end
  if concurrent > 0 then
    got.slots = math.min(got.slots, slot_share(keys, limit[LIMIT.scope], concurrent, now, parts))
  end
  return (requests > 0 and got.requests <= 0) or (tokens > 0 and got[held] <= 0)
    or (concurrent > 0 and got.slots <= 0) or limit[LIMIT.shadow] == 1
end

-- Takes the units ahead from one limit's rates, and lowers the views to what is left.
local function take_ahead(state, limit, rates, got, now)
  local scope, requests, tokens, fields = limit[LIMIT.scope], limit[LIMIT.requests], limit[LIMIT.tokens], {}
  if requests > 0 then
    local new = rates.requests_at + got.requests * MINUTE / requests
    fields[#fields + 1] = 'q|' .. scope
    fields[#fields + 1] = moment(new)
    got.requests_view = tighter(got.requests_view, requests, new, now)
  end
  if tokens > 0 then
    local new = rates.tokens_at + got[tokens_of(limit)] * MINUTE / tokens
    fields[#fields + 1] = 't|' .. scope
    fields[#fields + 1] = moment(new)
    got.tokens_view = tighter(got.tokens_view, tokens, new, now)
  end
  if #fields > 0 then redis.call('HSET', state, 'z|' .. scope, text(now + RATE_LEASE_LIFE), unpack(fields)) end
end

local function leased(got, room, budgets, now)
  return pack({
    LEASED.tag,
    [LEASED.now] = now,
    [LEASED.nano] = got.nano,
    [LEASED.requests] = got.requests,
    [LEASED.tokens] = got.tokens,
    [LEASED.typical_tokens] = got.typical_tokens,
    [LEASED.slots] = got.slots,
    [LEASED.room] = room,
    [LEASED.counters] = shown(budgets),
    [LEASED.requests_view] = got.requests_view,
    [LEASED.tokens_view] = got.tokens_view,
  })
end

local function lease(keys, args)
  local refused, spec, now, stored = begin_hold(keys, args[LEASE.spec], args[LEASE.epoch])
  if refused then return refused end
  local wanted, state = unpacked(args[LEASE.wanted]), keys[KEY.state]
  keep_alive(keys, wanted[WANTED.worker], wanted[WANTED.lease], now)
  local parts = redis.call('ZCARD', keys[KEY.alive]) * wanted[WANTED.leases]

  local budgets = open_all(state, spec, stored, now)
  local nano, room = money_share(budgets, wanted[WANTED.nano], parts)
  local useless = nano <= 0 and #budgets > 0
  local got = {
    nano = nano,
    requests = wanted[WANTED.requests],
    tokens = wanted[WANTED.tokens],
    typical_tokens = wanted[WANTED.typical_tokens],
    slots = wanted[WANTED.slots],
    requests_view = false,
    tokens_view = false,
  }
  for i, limit in ipairs(spec[SPEC.limits]) do
    drain(state, limit, stored.limits[i], now)
    useless = share_limit(keys, limit, stored.limits[i], got, now, parts) or useless
  end
  if useless then
    got.nano, got.requests, got.tokens, got.typical_tokens, got.slots = -1, 0, 0, 0, 0
    return leased(got, room, budgets, now)
  end

  local slot_scopes = {}
  for i, limit in ipairs(spec[SPEC.limits]) do
    take_ahead(state, limit, stored.limits[i], got, now)
    if limit[LIMIT.concurrent] > 0 then slot_scopes[#slot_scopes + 1] = limit[LIMIT.scope] end
  end
  local record = hold_row(nano, now, hold_money(state, budgets, nano), slot_scopes, {})
  record[HOLD.slots] = got.slots
  keep_hold(keys, wanted[WANTED.hold], wanted[WANTED.lease], now, record)
  return leased(got, room, budgets, now)
end
