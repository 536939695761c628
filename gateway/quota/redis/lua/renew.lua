-- renew: settles the money of one attempt and holds for the next, as `ask` under a new name; slots and rates
-- stay taken. Without room the whole old hold is settled. Units and keys: common.lua. Replies as admit, without
-- NO_LIMIT.
local function renew(keys, args)
  local refused, spec, now = begin_hold(keys, args[RENEW.spec], args[RENEW.epoch])
  if refused then return refused end
  local ask, state, old = unpacked(args[RENEW.ask]), keys[KEY.state], args[RENEW.hold]
  local record = open_hold(keys, old) or hold_row(0, now, {}, {}, {})
  settle_one(keys, old, tonumber(args[RENEW.spent]), tonumber(args[RENEW.unseen]), -1, 0, nil, nil, now)

  local budgets = open_all(state, spec, read(state, spec), now)
  local cap, over = fit_budgets(keys, ask, budgets, ask[ASK.output_cap], now)
  if not cap then
    correct_tokens(state, record, tonumber(args[RENEW.used]), tonumber(args[RENEW.least]), now)
    return over
  end
  local nano = hold_nano(ask, cap)
  local windows = hold_money(state, budgets, nano)
  local renewed = hold_row(nano, record[HOLD.admitted_at], windows, record[HOLD.slot_scopes], record[HOLD.taken])
  keep_hold(keys, ask[ASK.hold], ask[ASK.lease], now, renewed)
  return admitted(cap, nano, now, false, false, {}, budgets)
end
