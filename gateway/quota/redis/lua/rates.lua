-- Rates, and the output cap of an ask that fits into them and into money. Units: common.lua.

-- Nano-USD of the ask with this cap, rounded up: core/admission.hold_nano.
local function hold_nano(ask, cap)
  local rate = ask[ASK.nano_per_million]
  local part = cap * math.fmod(rate, SECOND)
  return ask[ASK.prompt_nano] + cap * quotient(rate, SECOND) + quotient(part + SECOND - 1, SECOND)
end

-- The part of what is left that a default cap may take.
local function share(room)
  return math.min(math.max(quotient(room, 4), 1024), room)
end

-- The cap that fits into `room`, or nil: core/admission.fit_output. The division by the rate runs digit by
-- digit, because room * 10^6 would not be exact.
local function fit(ask, room)
  local prompt, rate, wanted = ask[ASK.prompt_nano], ask[ASK.nano_per_million], ask[ASK.output_tokens]
  local least = math.min(wanted, 16)
  if rate == 0 or wanted == 0 then
    if prompt <= room then return wanted end
    return nil
  end
  if room < prompt then return nil end
  local rest = room - prompt
  local affordable = quotient(rest, rate)
  rest = math.fmod(rest, rate)
  for _ = 1, 6 do
    rest = rest * 10
    affordable = affordable * 10 + quotient(rest, rate)
    rest = math.fmod(rest, rate)
  end
  if ask[ASK.explicit] == 0 then wanted = math.min(wanted, share(affordable)) end
  local cap = math.min(wanted, affordable)
  if cap >= least then return cap end
  return nil
end

-- Whether a limit holds a typical answer of an ask: it is to, and somebody knows how long that is.
local function holds_typical(ask, limit)
  return limit[LIMIT.typical] == 1 and ask[ASK.typical_output] > 0
end

-- What an ask with this output cap takes of a limit's tokens: core/admission.Ask.rate_tokens, typical_tokens.
local function rate_units(ask, limit, cap)
  if holds_typical(ask, limit) then cap = math.min(cap, ask[ASK.typical_output]) end
  return ask[ASK.prompt_tokens] + cap * ask[ASK.choices]
end

-- The least output with which an ask need not wait: core/admission.least_output.
local function least_output(ask, limit)
  if holds_typical(ask, limit) then return ask[ASK.typical_output] end
  local wanted, choices, per_minute = ask[ASK.output_tokens], ask[ASK.choices], limit[LIMIT.tokens]
  if ask[ASK.explicit] == 1 then return wanted end
  local useful = math.min(1024, math.floor(per_minute / (8 * choices)))
  local fitting = math.floor((per_minute - ask[ASK.prompt_tokens]) / choices)
  return math.min(wanted, math.max(16, math.min(useful, fitting)))
end

-- The output cap that takes no more than `free` tokens: core/admission.fit_rate.
local function fit_rate(ask, limit, free)
  local wanted = ask[ASK.output_tokens]
  if ask[ASK.explicit] == 1 or holds_typical(ask, limit) then return wanted end
  local fitting = math.floor((free - ask[ASK.prompt_tokens]) / ask[ASK.choices])
  return math.max(math.min(wanted, share(fitting)), 0)
end

-- Units taken ahead drain before they are used. While quota leases of a rate are out, its bucket is smaller by
-- the time that one lives, so that no instant sees more than a full one.
local RATE_LEASE_LIFE = 2 * SECOND

-- When all that was taken will have drained. Further ahead than `most` is clock damage, whose repair is the
-- one write that a refusal makes: unrepaired it would refuse until that moment comes.
local function drained(state, field, value, now, most)
  local at = tonumber(value or '0')
  if at > now + most then
    at = now + most
    redis.call('HSET', state, field, moment(at))
  end
  return math.max(at, now)
end

-- Brings the stored moments of a limit's rates to now.
local function drain(state, limit, rates, now)
  rates.requests_at = drained(state, 'q|' .. limit[LIMIT.scope], rates.requests_at, now, MINUTE)
  rates.tokens_at = drained(state, 't|' .. limit[LIMIT.scope], rates.tokens_at, now, LONGEST_DEBT)
end

-- The tighter one of a view and a rate whose units will have drained at `at`.
local function tighter(view, per_minute, at, now)
  local remaining = math.max(math.floor(per_minute - (at - now) / (MINUTE / per_minute) + ROUNDING), 0)
  if view and view[RATE.remaining] <= remaining then return view end
  return {[RATE.limit] = per_minute, [RATE.remaining] = remaining, [RATE.reset] = math.floor(at - now)}
end

-- Correct what a hold took of tokens per minute: core/admission.GcraLimit.correct. `used` -1: not known, but at
-- least `least`, and nothing is credited.
local function correct_tokens(state, record, used, least, now)
  if #record[HOLD.taken] == 0 then return end
  local names, fields = {}, {}
  for i, taken in ipairs(record[HOLD.taken]) do
    names[i] = 't|' .. taken[TAKEN.scope]
  end
  local values = redis.call('HMGET', state, unpack(names))
  for i, taken in ipairs(record[HOLD.taken]) do
    local unit, reserved = MINUTE / taken[TAKEN.per_minute], taken[TAKEN.tokens]
    local at = tonumber(values[i] or '0')
    local settled = used >= 0 and used or math.max(reserved, least)
    if settled >= reserved then
      at = math.max(at, now) + (settled - reserved) * unit
    else
      local drained_since = taken[TAKEN.typical] == 1 and 0 or now - record[HOLD.admitted_at]
      at = at - math.max((reserved - settled) * unit - drained_since, 0)
    end
    fields[#fields + 1] = names[i]
    fields[#fields + 1] = moment(at)
  end
  redis.call('HSET', state, unpack(fields))
end

local function correct_rates(state, corrections, now)
  for _, correction in ipairs(corrections) do
    local field, difference = correction[CORRECTION.field], correction[CORRECTION.microseconds]
    local at = tonumber(redis.call('HGET', state, field) or '0')
    if difference > 0 then at = math.max(at, now) end
    redis.call('HSET', state, field, moment(at + difference))
  end
end
