-- Units: money in nano-USD, tokens in tokens, time in microseconds since 1970; windows in whole seconds.
-- Numbers are doubles: integers are exact to 2^53, which is 9.0M USD a window. Stored money from there on is
-- changed by HINCRBY alone, which is exact in 64 bits, and a margin is kept back because reading rounds.
--
-- Positions have names: HOLD.nano is where a packed hold has its money, ADMIT.epoch is an argument of admit,
-- STALE.tag begins that reply. layout.py and replies.py declare them; scripts.py puts the numbers in.
--
-- KEY.state    hash: epoch, identity, closed (rebuild.lua); q|SCOPE and t|SCOPE, when all requests and tokens
--              taken will have drained; z|SCOPE, until when quota leases of them are out (lease.lua);
--              BUDGET|w start of its open window, |s spent, |h held, |u unseen;
--              of a rolling one |w is the oldest part kept, |pN and |vN spent and unseen of part N
-- KEY.holds    hash: hold -> packed HOLD
-- KEY.due      sorted set: hold -> when its lease ends
-- KEY.presumed hash: hold -> packed HOLD whose worker died, counted as unseen at its full size
-- KEY.worker   prefix of one string a worker: number of its last batch of settlements applied
-- KEY.slots    prefix of sorted sets, one for each scope with a concurrency limit: slot -> lease end
-- KEY.alive    sorted set: worker -> until when it counts as alive
-- KEY.claim    prefix of one string for what only one worker should do
-- KEY.ready    hash, while spending is being rebuilt: worker -> how many workers it knows of, and
--              turn: how often that changed (rebuild.lua)
-- All are tollway:{ORG}:NAME. The braces put them into one hash slot, so a cluster keeps them on one node.

local MINUTE = 60000000
local SECOND = 1000000
local LONGEST_DEBT = 60 * MINUTE
local EXACT = 9007199254740992
local MARGIN = 4096
local ROUNDING = 0.001
local PARTS = 60

-- Redis gives the library no cmsgpack while it loads.
local function pack(row)
  return cmsgpack.pack(row)
end

local function unpacked(bytes)
  return cmsgpack.unpack(bytes)
end

local function text(number)
  return string.format('%.0f', number + 0) -- a negative zero would be no integer
end

local function moment(number)
  return string.format('%.17g', number)
end

-- Floor of a / b for integers, exact where a plain division of doubles would round up.
local function quotient(a, b)
  return (a - math.fmod(a, b)) / b
end

local function applied(now)
  return pack({APPLIED.tag, [APPLIED.now] = now})
end

local function is_stale(spec, now)
  return now < spec[SPEC.start] * SECOND or (spec[SPEC.ends] > 0 and now >= spec[SPEC.ends] * SECOND)
end

-- The fields of a budget's counters, and their values, from `at` on.
local function name_counters(fields, at, name)
  fields[at + BUDGET_FIELD.start] = name .. '|w'
  fields[at + BUDGET_FIELD.spent] = name .. '|s'
  fields[at + BUDGET_FIELD.held] = name .. '|h'
  fields[at + BUDGET_FIELD.unseen] = name .. '|u'
end

local function counters_at(values, at)
  return {
    start = tonumber(values[at + BUDGET_FIELD.start] or '-1'),
    spent = tonumber(values[at + BUDGET_FIELD.spent] or '0'),
    held = tonumber(values[at + BUDGET_FIELD.held] or '0'),
    unseen = tonumber(values[at + BUDGET_FIELD.unseen] or '0'),
  }
end

local function name_rates(fields, at, scope)
  fields[at + LIMIT_FIELD.requests_at] = 'q|' .. scope
  fields[at + LIMIT_FIELD.tokens_at] = 't|' .. scope
  fields[at + LIMIT_FIELD.leased_until] = 'z|' .. scope
end

local function rates_at(values, at)
  return {
    requests_at = values[at + LIMIT_FIELD.requests_at],
    tokens_at = values[at + LIMIT_FIELD.tokens_at],
    leased_until = values[at + LIMIT_FIELD.leased_until],
  }
end

-- What is stored of a spec, in its order: {epoch, closed, limits, budgets}; epoch and closed are false when not
-- stored.
local function read(state, spec)
  local limits, budgets, at = spec[SPEC.limits], spec[SPEC.budgets], STATE_FIELD.size
  local fields = {}
  fields[STATE_FIELD.epoch], fields[STATE_FIELD.closed] = 'epoch', 'closed'
  for i, limit in ipairs(limits) do
    name_rates(fields, at + (i - 1) * LIMIT_FIELD.size, limit[LIMIT.scope])
  end
  at = at + #limits * LIMIT_FIELD.size
  for i, budget in ipairs(budgets) do
    name_counters(fields, at + (i - 1) * BUDGET_FIELD.size, budget[BUDGET.name])
  end

  local values = redis.call('HMGET', state, unpack(fields))
  local stored = {epoch = values[STATE_FIELD.epoch], closed = values[STATE_FIELD.closed], limits = {}, budgets = {}}
  for i = 1, #limits do
    stored.limits[i] = rates_at(values, STATE_FIELD.size + (i - 1) * LIMIT_FIELD.size)
  end
  for i = 1, #budgets do
    stored.budgets[i] = counters_at(values, at + (i - 1) * BUDGET_FIELD.size)
  end
  return stored
end

-- What a call with a spec begins with: the reply that it must give at once, or nil; the spec; the time; what is
-- stored. Without an epoch any epoch will do.
local function begin(keys, packed_spec, epoch)
  local spec, now = unpacked(packed_spec), clock(keys)
  if is_stale(spec, now) then return pack({STALE.tag, [STALE.now] = now}) end
  local stored = read(keys[KEY.state], spec)
  if epoch and stored.epoch ~= epoch then return pack({FORGOTTEN.tag}) end
  return nil, spec, now, stored
end

-- As begin, for a call that holds something: while counters may have gone back, nothing that has a hard budget
-- is admitted.
local function begin_hold(keys, packed_spec, epoch)
  local refused, spec, now, stored = begin(keys, packed_spec, epoch)
  if refused then return refused end
  if stored.closed then
    for _, budget in ipairs(spec[SPEC.budgets]) do
      if budget[BUDGET.soft] == 0 then return pack({CLOSED.tag, [CLOSED.now] = now}) end
    end
  end
  return nil, spec, now, stored
end
