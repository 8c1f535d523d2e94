-- What services share, each by the store's own clock. ARGV[1] says what is wanted of KEYS[1].
local wanted, key = ARGV[1], KEYS[1]
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6

local function numbers(...)
  local found = redis.call('HMGET', key, ...)
  for i, value in ipairs(found) do found[i] = tonumber(value) end
  return found
end

local function kept(seconds, ...)
  redis.call('HSET', key, ...)
  redis.call('EXPIRE', key, math.ceil(seconds))
end

-- A token bucket: rate a minute, tokens to take; what is left.
if wanted == 'take' then
  local rate, taken = tonumber(ARGV[2]), tonumber(ARGV[3])
  local known = numbers('left', 'seen')
  local left = (known[1] or rate) + math.max(0, now - (known[2] or now)) * rate / 60
  left = math.min(rate, left) - taken
  -- As long as a debt takes to be refilled.
  kept(math.max(120, 60 * (rate - left) / math.max(rate, 1e-9)), 'left', tostring(left), 'seen', tostring(now))
  return tostring(left)
end

-- A circuit breaker: what happened, failures that open it, its cooldown; failures in a row,
-- seconds until a probe, and whether a request may go out.
if wanted == 'breaker' then
  local event, most, cooldown = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
  local known = numbers('failed', 'until')
  local failed, opens = known[1] or 0, known[2] or 0
  if event == 'succeeded' then
    redis.call('DEL', key)
    failed = 0
  end
  if event == 'failed' then failed = failed + 1 end
  local admits = failed < most or now >= opens
  if failed >= most and (event == 'failed' or (event == 'admit' and admits)) then
    opens = now + cooldown
  end
  if event == 'failed' or (event == 'admit' and failed >= most) then
    kept(60 + 10 * cooldown, 'failed', failed, 'until', tostring(opens))
  end
  return {failed, tostring(math.max(0, opens - now)), admits and 1 or 0}
end

-- A sum of pairs: a member, and both of all that it ever added; both of all members. What is told
-- again, since the reply came too late, counts once.
if wanted == 'add' then
  local member, sums = ARGV[2], numbers('questions', 'spent')
  local before = redis.call('HGET', key, member) or '0 0'
  local then_questions, then_spent = string.match(before, '(%S+) (%S+)')
  local questions = string.format('%.17g', (sums[1] or 0) + ARGV[3] - then_questions)
  local spent = string.format('%.17g', (sums[2] or 0) + ARGV[4] - then_spent)
  kept(86400, 'questions', questions, 'spent', spent, member, ARGV[3] .. ' ' .. ARGV[4])
  return {questions, spent}
end

-- Room: a member, how many it holds, how many all may, how long its word counts; whether it fits.
if wanted == 'room' then
  local member, holds, most, lasts = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
  local held = holds
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local count, seen = string.match(all[i + 1], '(%S+) (%S+)')
    if tonumber(seen) < now - lasts then
      redis.call('HDEL', key, all[i])
    elseif all[i] ~= member then
      held = held + tonumber(count)
    end
  end
  local fits = held <= most
  if fits then kept(lasts + 1, member, holds .. ' ' .. tostring(now)) end
  return fits and 1 or 0
end

return redis.error_reply('shared.lua: expected take, breaker, add or room, found ' .. wanted)
