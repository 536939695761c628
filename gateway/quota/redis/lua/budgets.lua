-- Budgets: windows that open and close, and money that is held, spent and unseen in them. Units: common.lua.

-- The oldest part of a rolling window that still counts.
local function first_part(part, now)
  return math.floor(now / (part * SECOND)) - PARTS
end

-- The fields of a rolling budget's parts, spent and unseen in turn.
local function part_fields(name, from, to)
  local fields = {}
  for part = from, to do
    fields[#fields + 1] = name .. '|p' .. text(part)
    fields[#fields + 1] = name .. '|v' .. text(part)
  end
  return fields
end

-- The parts of a rolling window that have left it: their fields, and what was spent and unseen in them.
local function parts_before(state, name, oldest, first)
  local expired = {fields = {}, spent = 0, unseen = 0}
  if oldest >= 0 then
    expired.fields = part_fields(name, oldest, math.min(first - 1, oldest + PARTS + 1))
    local values = redis.call('HMGET', state, unpack(expired.fields))
    for i = 1, #values, 2 do
      expired.spent = expired.spent + tonumber(values[i] or '0')
      expired.unseen = expired.unseen + tonumber(values[i + 1] or '0')
    end
  end
  return expired
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
local function opened(state, budget, stored, now)
  local b = {
    name = budget[BUDGET.name],
    limit = budget[BUDGET.limit],
    soft = budget[BUDGET.soft] == 1,
    part = budget[BUDGET.part],
    start = stored.start,
    spent = stored.spent,
    held = stored.held,
    unseen = stored.unseen,
  }
  local start = budget[BUDGET.start]
  if b.part > 0 then
    local first = first_part(b.part, now)
    if b.start < first then
      b.expired = parts_before(state, b.name, b.start, first)
      b.start, b.spent, b.unseen = first, b.spent - b.expired.spent, b.unseen - b.expired.unseen
    end
  elseif b.start ~= start then
    -- A clock that was set back must not open a spent window anew; one that had jumped far must not keep it.
    if not (b.start > start and b.start - start <= budget[BUDGET.duration]) then
      b.start, b.spent, b.held, b.unseen, b.reset = start, 0, 0, 0, true
    end
  end
  b.left = b.limit - b.spent - b.held - b.unseen
  if b.limit >= EXACT then
    b.left = b.left - MARGIN
  end
  return b
end

local function open_all(state, spec, stored, now)
  local budgets = {}
  for i, budget in ipairs(spec[SPEC.budgets]) do
    budgets[i] = opened(state, budget, stored.budgets[i], now)
  end
  return budgets
end

local function advance(state, b)
  if b.reset then
    redis.call('HSET', state, b.name .. '|w', text(b.start), b.name .. '|s', 0, b.name .. '|h', 0, b.name .. '|u', 0)
    b.reset = nil
  elseif b.expired then
    drop_parts(state, b.name, b.start, b.expired)
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

-- The window of a budget that a hold is counted in; a rolling one has no start.
local function window_of(b)
  return {[WINDOW.name] = b.name, [WINDOW.start] = b.part > 0 and -1 or b.start, [WINDOW.part] = b.part}
end

local function hold_money(state, budgets, nano)
  local windows, fields = {}, {}
  for i, b in ipairs(budgets) do
    advance(state, b)
    change(state, fields, b.name .. '|h', b.held, nano)
    b.held = b.held + nano
    windows[i] = window_of(b)
  end
  write_counters(state, fields)
  return windows
end

-- Spending enters a rolling window in the part that fills now, never before the oldest one kept.
local function enter_part(state, name, part, spent, unseen, now)
  local oldest, first = tonumber(redis.call('HGET', state, name .. '|w') or '-1'), first_part(part, now)
  if oldest < first then
    drop_parts(state, name, first, parts_before(state, name, oldest, first))
    oldest = first
  end
  local at = text(math.max(first + PARTS, oldest))
  if spent ~= 0 then redis.call('HINCRBY', state, name .. '|p' .. at, text(spent)) end
  if unseen ~= 0 then redis.call('HINCRBY', state, name .. '|v' .. at, text(unseen)) end
end

-- The stored counters of each of these windows' budgets.
local function read_windows(state, windows)
  local fields, stored = {}, {}
  for i, window in ipairs(windows) do
    name_counters(fields, (i - 1) * BUDGET_FIELD.size, window[WINDOW.name])
  end
  local values = redis.call('HMGET', state, unpack(fields))
  for i = 1, #windows do
    stored[i] = counters_at(values, (i - 1) * BUDGET_FIELD.size)
  end
  return stored
end

-- Change the counters of the windows that a hold was taken in; windows that have ended are left alone.
local function settle_money(state, windows, nano, spent, unseen, now)
  if #windows == 0 then return end
  local fields, stored = {}, read_windows(state, windows)
  for i, window in ipairs(windows) do
    local name, counters, start = window[WINDOW.name], stored[i], window[WINDOW.start]
    if start < 0 or counters.start == start then
      change(state, fields, name .. '|s', counters.spent, spent)
      change(state, fields, name .. '|h', counters.held, -nano)
      change(state, fields, name .. '|u', counters.unseen, unseen)
    end
  end
  write_counters(state, fields)
  for _, window in ipairs(windows) do
    local part = window[WINDOW.part]
    if part > 0 and (spent ~= 0 or unseen ~= 0) then
      enter_part(state, window[WINDOW.name], part, spent, unseen, now)
    end
  end
end

-- The index of the tightest hard budget, or nil without any.
local function tightest(budgets)
  local found
  for i, b in ipairs(budgets) do
    if not b.soft and (not found or b.left < budgets[found].left) then found = i end
  end
  return found
end

-- The reply that a budget has no room. Of a rolling one the start is the oldest part that holds anything,
-- because only when that leaves can there be room.
local function no_room(state, budgets, index, now)
  local b = budgets[index]
  local start = b.start
  if b.part > 0 then
    start = b.start + PARTS
    local fields = part_fields(b.name, b.start, b.start + PARTS)
    for i, value in ipairs(redis.call('HMGET', state, unpack(fields))) do
      if value and value ~= '0' then
        start = b.start + math.floor((i - 1) / 2)
        break
      end
    end
  end
  return pack({
    NO_BUDGET.tag,
    [NO_BUDGET.budget] = index - 1,
    [NO_BUDGET.start] = start,
    [NO_BUDGET.spent] = b.spent,
    [NO_BUDGET.held] = b.held,
    [NO_BUDGET.unseen] = b.unseen,
    [NO_BUDGET.now] = now,
  })
end

-- The counters of budgets, as replies show them.
local function shown(budgets)
  local rows = {}
  for i, b in ipairs(budgets) do
    rows[i] = {
      [COUNTERS.start] = b.start,
      [COUNTERS.spent] = b.spent,
      [COUNTERS.held] = b.held,
      [COUNTERS.unseen] = b.unseen,
    }
  end
  return rows
end
