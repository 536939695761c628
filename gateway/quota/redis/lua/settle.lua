-- settle: applies one batch of settlements. A batch whose number was applied before is a repetition after a
-- lost reply and changes nothing; one that overtook a lost one is not applied, or the lost one would count as
-- applied. Units and keys: common.lua. Replies APPLIED or GAP.

-- The rest of a row may be left out or nil.
local function optional(value)
  return type(value) == 'table' and value or nil
end

-- What stays of a quota lease is held on: less money, and the last slots are free.
local function keep_remainder(keys, id, record, remainder, spent, unseen, now)
  local stays = remainder[REMAINDER.nano]
  settle_money(keys[KEY.state], record[HOLD.windows], record[HOLD.nano] - stays, spent, unseen, now)
  drop_slots(keys, id, record, remainder[REMAINDER.slots] + 1)
  record[HOLD.nano], record[HOLD.slots] = stays, remainder[REMAINDER.slots]
  redis.call('HSET', keys[KEY.holds], id, pack(record))
end

-- What was presumed spent is now known.
local function settle_presumed(keys, id, record, stays, spent, unseen, now)
  local more = unseen + math.max(stays, 0) - record[HOLD.nano]
  settle_money(keys[KEY.state], record[HOLD.windows], 0, spent, more, now)
  record[HOLD.nano] = stays
  if stays >= 0 then
    redis.call('HSET', keys[KEY.presumed], id, pack(record))
  else
    redis.call('HDEL', keys[KEY.presumed], id)
  end
end

local function settle_one(keys, id, spent, unseen, used, least, windows, remainder, now)
  local state, stays = keys[KEY.state], -1
  if remainder then
    stays = remainder[REMAINDER.nano]
    correct_rates(state, remainder[REMAINDER.corrections], now)
  end
  local record = open_hold(keys, id)
  if record then
    if stays >= 0 then return keep_remainder(keys, id, record, remainder, spent, unseen, now) end
    settle_money(state, record[HOLD.windows], record[HOLD.nano], spent, unseen, now)
    correct_tokens(state, record, used, least, now)
    return drop_hold(keys, id, record)
  end
  local presumed = redis.call('HGET', keys[KEY.presumed], id)
  if presumed then
    settle_presumed(keys, id, unpacked(presumed), stays, spent, unseen, now)
  elseif windows then
    settle_money(state, windows, 0, spent, unseen, now)
  end
end

local function settle(keys, args)
  local now, number = clock(keys), tonumber(args[SETTLE.batch])
  local last_batch = keys[KEY.worker] .. args[SETTLE.worker]
  local last = tonumber(redis.call('GET', last_batch) or '-1')
  if last >= number then return applied(now) end
  if last >= 0 and number > last + 1 then return pack({GAP.tag, [GAP.now] = now}) end
  for _, item in ipairs(unpacked(args[SETTLE.settlements])) do
    settle_one(
      keys,
      item[SETTLEMENT.hold],
      item[SETTLEMENT.spent],
      item[SETTLEMENT.unseen],
      item[SETTLEMENT.used],
      item[SETTLEMENT.least],
      optional(item[SETTLEMENT.windows]),
      optional(item[SETTLEMENT.remainder]),
      now
    )
  end
  redis.call('SET', last_batch, args[SETTLE.batch], 'EX', 86400)
  return applied(now)
end
