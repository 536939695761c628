-- renew: args epoch, packed plan, packed ask under a new name of the hold, old name, spent, unseen, used.
-- Settles the money of one attempt and holds for the next; slots and rates stay taken. Without room the
-- whole hold is settled. Replies as admit does. Units and keys: common.lua.
local function renew(keys, args)
  local plan, ask = cmsgpack.unpack(args[2]), cmsgpack.unpack(args[3])
  local now = clock(keys)
  if stale(plan, now) then return pack(STALE, now) end
  local values = read(keys[1], plan)
  if values[1] ~= args[1] then return pack(FORGOTTEN) end
  if closed(plan, values) then return pack(CLOSED, now) end
  local old = redis.call('HGET', keys[2], args[4])
  local record = old and cmsgpack.unpack(old) or {0, now, {}, {}, {}}
  settle_one(keys, {args[4], tonumber(args[5]), tonumber(args[6]), -1}, now)

  local budgets = open_all(keys[1], plan, read(keys[1], plan), now)
  local cap, least = ask[9], tightest(budgets)
  if least then
    cap = fit(ask, budgets[least].left)
    if cap then
      cap = math.min(cap, ask[9])
    else
      correct_tokens(keys[1], record, tonumber(args[7]), now)
      return no_room(keys[1], budgets, least, now)
    end
  end
  local nano = hold_nano(ask, cap)
  local held = hold_money(keys[1], budgets, nano)
  keep_hold(keys, ask[1], ask[7], now, {nano, record[2], held, record[4], record[5]})
  return pack(ADMITTED, cap, nano, now, false, false, {}, shown(budgets))
end
