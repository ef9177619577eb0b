-- Health of a MediaTenant for Argo CD: resource.customizations.health.media.scaiwave.io_MediaTenant.
if obj.metadata ~= nil and obj.metadata.deletionTimestamp ~= nil then
  return {status = "Progressing", message = "It is being deleted"}
end
local ready = nil
if obj.status ~= nil and obj.status.conditions ~= nil then
  for _, condition in ipairs(obj.status.conditions) do
    if condition.type == "Ready" then
      ready = condition
    end
  end
end
if ready == nil then
  return {status = "Progressing", message = "The operator has not looked at it yet"}
end
if ready.reason == "Paused" then
  return {status = "Suspended", message = ready.message}
end
local generation = obj.metadata ~= nil and obj.metadata.generation or nil
if generation ~= nil and ready.observedGeneration ~= nil and ready.observedGeneration < generation then
  return {status = "Progressing", message = "The operator has not looked at the last change yet"}
end
if ready.status == "True" then
  return {status = "Healthy", message = ready.message}
end
if ready.status == "False" then
  if ready.reason == "Suspended" then
    return {status = "Suspended", message = ready.message}
  end
  if ready.reason == "CanaryPending" or ready.reason == "Deleting" then
    return {status = "Progressing", message = ready.message}
  end
  return {status = "Degraded", message = ready.message}
end
return {status = "Progressing", message = ready.message}
