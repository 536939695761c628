-- settle: args worker, number of this batch, packed list of {hold, spent, unseen, used, kept, left}. A batch whose
-- number was applied before is a repetition after a lost reply and changes nothing; one that overtook a lost
-- one is not applied, or the lost one would count as applied: replies {6, now}. `used` is -1 when not
-- known. `kept` is what the worker knows of a hold that this server has lost (nil otherwise): its spending is
-- added, and nothing is taken from held. `left` is {nano, places, rates} of a slice (lease.lua): what stays
-- held, how many places stay, and corrections {field, microseconds} of rates; without nano it ends. Units and keys: common.lua. Replies {1, now}.

-- Correct what was taken of tokens per minute: core/admission.GcraLimit.correct.
local function correct_tokens(state, record, used, now)
  if used < 0 or #record[5] == 0 then return end
  local names, fields = {}, {}
  for i, taken in ipairs(record[5]) do
    names[i] = 't|' .. taken[1]
  end
  local values = redis.call('HMGET', state, unpack(names))
  for i, taken in ipairs(record[5]) do
    local unit, reserved, at = MINUTE / taken[2], taken[3], tonumber(values[i] or '0')
    if used >= reserved then
      at = math.max(at, now) + (used - reserved) * unit
    else
      at = at - math.max((reserved - used) * unit - (now - record[2]), 0)
    end
    fields[2 * i - 1], fields[2 * i] = names[i], string.format('%.17g', at)
  end
  redis.call('HSET', state, unpack(fields))
end

local function correct_rates(state, corrections, now)
  for _, correction in ipairs(corrections) do
    local at = tonumber(redis.call('HGET', state, correction[1]) or '0')
    if correction[2] > 0 then at = math.max(at, now) end
    redis.call('HSET', state, correction[1], string.format('%.17g', at + correction[2]))
  end
end

local function settle_one(keys, item, now)
  local id, spent, unseen, used = item[1], item[2], item[3], item[4]
  local left = type(item[6]) == 'table' and item[6] or nil
  if left then correct_rates(keys[1], left[3], now) end
  local packed = redis.call('HGET', keys[2], id)
  if packed then
    local record = cmsgpack.unpack(packed)
    if left and left[1] >= 0 then
      settle_money(keys[1], record[3], record[1] - left[1], spent, unseen, now)
      drop_places(keys, id, record, left[2] + 1)
      record[1], record[6] = left[1], left[2]
      redis.call('HSET', keys[2], id, cmsgpack.pack(record))
      return record
    end
    settle_money(keys[1], record[3], record[1], spent, unseen, now)
    correct_tokens(keys[1], record, used, now)
    drop_hold(keys, id, record)
    return record
  end
  packed = redis.call('HGET', keys[4], id)
  if packed then
    -- It was presumed spent; now it is known.
    local record = cmsgpack.unpack(packed)
    local stays = left and left[1] or -1
    settle_money(keys[1], record[3], 0, spent, unseen + math.max(stays, 0) - record[1], now)
    record[1] = stays
    if stays >= 0 then
      redis.call('HSET', keys[4], id, cmsgpack.pack(record))
    else
      redis.call('HDEL', keys[4], id)
    end
  elseif type(item[5]) == 'table' then
    settle_money(keys[1], item[5], 0, spent, unseen, now)
  end
end

local function settle(keys, args)
  local now, number = clock(keys), tonumber(args[2])
  local seat = keys[5] .. args[1]
  local last = tonumber(redis.call('GET', seat) or '-1')
  if last >= number then return pack(ADMITTED, now) end
  if last >= 0 and number > last + 1 then return pack(GAP, now) end
  for _, item in ipairs(cmsgpack.unpack(args[3])) do
    settle_one(keys, item, now)
  end
  redis.call('SET', seat, args[2], 'EX', 86400)
  return pack(ADMITTED, now)
end
