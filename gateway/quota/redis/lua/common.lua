-- Units: money in nano-USD, tokens in tokens, time in microseconds since 1970; windows in whole seconds.
-- Numbers are doubles: integers are exact to 2^53, which is 9.0M USD a window. Stored money from there on is
-- changed by HINCRBY alone, which is exact in 64 bits, and a margin is kept back because reading rounds.
--
-- KEYS[1] {org}:state    hash: epoch, identity, closed (recovery.lua); q|SCOPE and t|SCOPE, when all requests and tokens taken will have drained;
--                        z|SCOPE until when slices of them are out (lease.lua);
--                        BUDGET|w start of its open window, |s spent, |h held, |u unseen;
--                        of a rolling one |w is the oldest part kept, |pN and |vN spent and unseen of part N
-- KEYS[2] {org}:holds    hash: hold -> packed {nano, admitted, budgets, slots, tokens, places}; places: how many
--                        slots it has in each sorted set, 1 when left out
-- KEYS[3] {org}:due      sorted set: hold -> when its lease ends
-- KEYS[4] {org}:presumed hash: hold -> packed hold whose worker went away, counted as unseen at its full size
-- KEYS[5] {org}:worker:  prefix of one string a worker: number of its last batch of settlements applied
-- KEYS[6] {org}:slots:   prefix of sorted sets, one for each scope with a concurrency limit: hold -> lease end
-- KEYS[7] {org}:alive    sorted set: worker -> until when it counts as alive
-- KEYS[8] {org}:claim:   prefix of one string for what only one worker should do
-- KEYS[9] {org}:ready    hash, while spending is being rebuilt: worker -> how many workers it knows of, and
--                        turn: how often that changed (recovery.lua)
-- The braces put all keys of an org into one hash slot, so a cluster keeps them on one node.

local MINUTE = 60000000
local SECOND = 1000000
local LONGEST_DEBT = 60 * MINUTE
local EXACT = 9007199254740992
local MARGIN = 4096
local ROUNDING = 0.001
local PARTS = 60

-- Replies begin with what happened.
local ADMITTED, NO_BUDGET, NO_LIMIT, STALE, FORGOTTEN, GAP, CLOSED = 1, 2, 3, 4, 5, 6, 7

local function text(number)
  return string.format('%.0f', number + 0) -- a negative zero would be no integer
end

local function pack(...)
  return cmsgpack.pack({...})
end

-- Floor of a / b for integers, exact where a plain division of doubles would round up.
local function quotient(a, b)
  return (a - math.fmod(a, b)) / b
end

-- A plan is {from, until, limits, budgets}; a limit {scope, requests, tokens, concurrent, shadow}, 0 for none;
-- a budget {name, start, limit, soft, part}, part being the seconds of one part when it rolls, else 0.
local function stale(plan, now)
  return now < plan[1] * SECOND or (plan[2] > 0 and now >= plan[2] * SECOND)
end

local function read(state, plan)
  local fields = {'epoch', 'closed'}
  for _, limit in ipairs(plan[3]) do
    fields[#fields + 1] = 'q|' .. limit[1]
    fields[#fields + 1] = 't|' .. limit[1]
    fields[#fields + 1] = 'z|' .. limit[1]
  end
  for _, budget in ipairs(plan[4]) do
    local name = budget[1]
    fields[#fields + 1] = name .. '|w'
    fields[#fields + 1] = name .. '|s'
    fields[#fields + 1] = name .. '|h'
    fields[#fields + 1] = name .. '|u'
  end
  return redis.call('HMGET', state, unpack(fields))
end

-- The oldest part of a rolling window that still counts.
local function first_part(part, now)
  return math.floor(now / (part * SECOND)) - PARTS
end

-- The parts of a rolling window that have left it: their fields, and what was spent and unseen in them.
local function left_behind(state, name, w, first)
  local fields, spent, unseen = {}, 0, 0
  if w >= 0 then
    for part = w, math.min(first - 1, w + PARTS + 1) do
      fields[#fields + 1] = name .. '|p' .. text(part)
      fields[#fields + 1] = name .. '|v' .. text(part)
    end
    local values = redis.call('HMGET', state, unpack(fields))
    for i = 1, #values, 2 do
      spent = spent + tonumber(values[i] or '0')
      unseen = unseen + tonumber(values[i + 1] or '0')
    end
  end
  return {fields = fields, spent = spent, unseen = unseen}
end

local function drop_parts(state, name, first, expired)
  redis.call('HSET', state, name .. '|w', text(first))
  if #expired.fields > 0 then
    redis.call('HINCRBY', state, name .. '|s', text(-expired.spent))
    redis.call('HINCRBY', state, name .. '|u', text(-expired.unseen))
    redis.call('HDEL', state, unpack(expired.fields))
  end
end

-- The stored counters of a budget brought to now, without writing; `advance` writes it.
local function opened(state, budget, w, s, h, u, now)
  local b = {
    name = budget[1], limit = budget[3], soft = budget[4] == 1, part = budget[5],
    w = tonumber(w or '-1'), s = tonumber(s or '0'), h = tonumber(h or '0'), u = tonumber(u or '0'),
  }
  if b.part > 0 then
    local first = first_part(b.part, now)
    if b.w < first then
      b.expired = left_behind(state, b.name, b.w, first)
      b.w, b.s, b.u = first, b.s - b.expired.spent, b.u - b.expired.unseen
    end
  elseif b.w ~= budget[2] then
    -- A clock that was set back must not open a spent window anew; one that had jumped far must not keep it.
    if not (b.w > budget[2] and b.w - budget[2] <= budget[6]) then
      b.w, b.s, b.h, b.u, b.reset = budget[2], 0, 0, 0, true
    end
  end
  b.left = b.limit - b.s - b.h - b.u
  if b.limit >= EXACT then
    b.left = b.left - MARGIN
  end
  return b
end

local function open_all(state, plan, values, now)
  local budgets, at = {}, 2 + 3 * #plan[3]
  for i, budget in ipairs(plan[4]) do
    budgets[i] = opened(state, budget, values[at + 1], values[at + 2], values[at + 3], values[at + 4], now)
    at = at + 4
  end
  return budgets
end

local function advance(state, b)
  if b.reset then
    redis.call('HSET', state, b.name .. '|w', text(b.w), b.name .. '|s', 0, b.name .. '|h', 0, b.name .. '|u', 0)
    b.reset = nil
  elseif b.expired then
    drop_parts(state, b.name, b.w, b.expired)
    b.expired = nil
  end
end

-- One call of redis costs more than all arithmetic here, so counters are written together. Those at 2^53 and
-- beyond were rounded when they were read, and are changed by the difference instead.
local function write_counters(state, fields)
  if #fields > 0 then redis.call('HSET', state, unpack(fields)) end
end

local function change(state, fields, field, value, difference)
  if difference == 0 then return end
  if math.abs(value) < EXACT and math.abs(value + difference) < EXACT then
    fields[#fields + 1] = field
    fields[#fields + 1] = text(value + difference)
  else
    redis.call('HINCRBY', state, field, text(difference))
  end
end

local function hold_money(state, budgets, nano)
  local held, fields = {}, {}
  for i, b in ipairs(budgets) do
    advance(state, b)
    change(state, fields, b.name .. '|h', b.h, nano)
    b.h = b.h + nano
    held[i] = {b.name, b.part > 0 and -1 or b.w, b.part}
  end
  write_counters(state, fields)
  return held
end

-- Spending enters a rolling window in the part that fills now, never before the oldest one kept.
local function enter_part(state, name, part, spent, unseen, now)
  local w, first = tonumber(redis.call('HGET', state, name .. '|w') or '-1'), first_part(part, now)
  if w < first then
    drop_parts(state, name, first, left_behind(state, name, w, first))
    w = first
  end
  local at = text(math.max(first + PARTS, w))
  if spent ~= 0 then redis.call('HINCRBY', state, name .. '|p' .. at, text(spent)) end
  if unseen ~= 0 then redis.call('HINCRBY', state, name .. '|v' .. at, text(unseen)) end
end

-- Change the counters of the windows that a hold was taken in; windows that have ended are left alone.
local function settle_money(state, held, nano, spent, unseen, now)
  if #held == 0 then return end
  local names, fields = {}, {}
  for i, budget in ipairs(held) do
    local name = budget[1]
    names[4 * i - 3], names[4 * i - 2] = name .. '|w', name .. '|s'
    names[4 * i - 1], names[4 * i] = name .. '|h', name .. '|u'
  end
  local values = redis.call('HMGET', state, unpack(names))
  for i, budget in ipairs(held) do
    if budget[2] < 0 or tonumber(values[4 * i - 3] or '-1') == budget[2] then
      change(state, fields, names[4 * i - 2], tonumber(values[4 * i - 2] or '0'), spent)
      change(state, fields, names[4 * i - 1], tonumber(values[4 * i - 1] or '0'), -nano)
      change(state, fields, names[4 * i], tonumber(values[4 * i] or '0'), unseen)
    end
  end
  write_counters(state, fields)
  for _, budget in ipairs(held) do
    local part = budget[3]
    if part > 0 and (spent ~= 0 or unseen ~= 0) then enter_part(state, budget[1], part, spent, unseen, now) end
  end
end

-- An ask is {hold, prompt_nano, nano_per_million, output_tokens, explicit, prompt_tokens, lease, choices,
-- most_output}: the last is a cap on its output cap.
-- Nano-USD of the ask with this cap, rounded up: core/admission.hold_nano.
local function hold_nano(ask, cap)
  local rest = math.fmod(ask[3], SECOND)
  local part = cap * rest
  return ask[2] + cap * quotient(ask[3], SECOND) + quotient(part + SECOND - 1, SECOND)
end

-- The part of what is left that a cap which nobody asked for may take.
local function share(room)
  return math.min(math.max(quotient(room, 4), 1024), room)
end

-- The cap that fits into `room`, or nil: core/admission.fit_output. The division by the rate runs digit by
-- digit, because room * 10^6 would not be exact.
local function fit(ask, room)
  local prompt, rate, wanted = ask[2], ask[3], ask[4]
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
  if ask[5] == 0 then wanted = math.min(wanted, share(affordable)) end
  local cap = math.min(wanted, affordable)
  if cap >= math.min(ask[4], 16) then return cap end
  return nil
end

-- What an ask with this output cap takes of tokens per minute.
local function rate_units(ask, cap)
  return ask[6] + cap * ask[8]
end

-- The least output cap with which an ask need not wait: core/admission.least_output.
local function least_output(ask, per_minute)
  if ask[5] == 1 then return ask[4] end
  local useful = math.min(1024, math.floor(per_minute / (8 * ask[8])))
  local fitting = math.floor((per_minute - ask[6]) / ask[8])
  return math.min(ask[4], math.max(16, math.min(useful, fitting)))
end

-- The output cap that takes no more than `free` tokens: core/admission.fit_rate.
local function fit_rate(ask, free)
  if ask[5] == 1 then return ask[4] end
  return math.max(math.min(ask[4], share(math.floor((free - ask[6]) / ask[8]))), 0)
end

-- The index of the tightest hard budget, or nil without any.
local function tightest(budgets)
  local found
  for i, b in ipairs(budgets) do
    if not b.soft and (not found or b.left < budgets[found].left) then found = i end
  end
  return found
end

-- While counters may have gone back, nothing that has a hard budget is admitted.
local function closed(plan, values)
  if not values[2] then return false end
  for _, budget in ipairs(plan[4]) do
    if budget[4] == 0 then return true end
  end
  return false
end

-- The reply that a budget has no room: {2, budget, w, s, h, u, now}. Of a rolling one `w` is the oldest part
-- that holds anything, because only when that leaves can there be room.
local function no_room(state, budgets, index, now)
  local b = budgets[index]
  local w = b.w
  if b.part > 0 then
    local fields = {}
    for part = b.w, b.w + PARTS do
      fields[#fields + 1] = b.name .. '|p' .. text(part)
      fields[#fields + 1] = b.name .. '|v' .. text(part)
    end
    w = b.w + PARTS
    for i, value in ipairs(redis.call('HMGET', state, unpack(fields))) do
      if value and value ~= '0' then
        w = b.w + math.floor((i - 1) / 2)
        break
      end
    end
  end
  return pack(NO_BUDGET, index - 1, w, b.s, b.h, b.u, now)
end

local function shown(budgets)
  local numbers = {}
  for _, b in ipairs(budgets) do
    numbers[#numbers + 1] = b.w
    numbers[#numbers + 1] = b.s
    numbers[#numbers + 1] = b.h
    numbers[#numbers + 1] = b.u
  end
  return numbers
end

local function place(id, number)
  if number == 1 then return id end
  return id .. '#' .. number
end

local function keep_places(keys, id, record, due)
  for _, scope in ipairs(record[4]) do
    for number = 1, record[6] or 1 do
      redis.call('ZADD', keys[6] .. scope, due, place(id, number))
    end
  end
end

local function drop_places(keys, id, record, from)
  for _, scope in ipairs(record[4]) do
    for number = from, record[6] or 1 do
      redis.call('ZREM', keys[6] .. scope, place(id, number))
    end
  end
end

local function keep_hold(keys, id, lease, now, record)
  redis.call('HSET', keys[2], id, cmsgpack.pack(record))
  redis.call('ZADD', keys[3], text(now + lease), id)
  keep_places(keys, id, record, text(now + lease))
end

local function drop_hold(keys, id, record)
  redis.call('HDEL', keys[2], id)
  redis.call('ZREM', keys[3], id)
  drop_places(keys, id, record, 1)
end

-- Units taken ahead drain before they are used. While slices of a rate are out, its bucket is smaller by the
-- time that a slice lives, so that no instant sees more than a full one.
local SLICE_LIFE = 2 * SECOND

-- When all that was taken will have drained. Further ahead than `most` is clock damage, whose repair is the
-- one write that a refusal makes: unrepaired it would refuse until that moment comes.
local function drained(state, field, value, now, most)
  local at = tonumber(value or '0')
  if at > now + most then
    at = now + most
    redis.call('HSET', state, field, string.format('%.17g', at))
  end
  return math.max(at, now)
end
