-- Take ARGV[2] tokens from the bucket KEYS[1], which has ARGV[1] a minute; returns what is left.
local rate, taken = tonumber(ARGV[1]), tonumber(ARGV[2])
local now = redis.call('TIME')
local at = now[1] + now[2] / 1e6
local known = redis.call('HMGET', KEYS[1], 'left', 'seen')
local left, seen = tonumber(known[1]) or rate, tonumber(known[2]) or at
left = math.min(rate, left + math.max(0, at - seen) * rate / 60) - taken
redis.call('HSET', KEYS[1], 'left', tostring(left), 'seen', tostring(at))
redis.call('EXPIRE', KEYS[1], 120)
return tostring(left)
