@echo off
rem Install pathotune from this folder: install.bat [--to FOLDER]
setlocal
set "here=%~dp0"
for /f "usebackq tokens=2 delims=:, " %%v in (`findstr /c:"\"python\"" "%here%manifest.json"`) do set "wanted=%%~v"
where py >nul 2>nul && (py -%wanted% "%here%install.py" %* & goto end)
where python >nul 2>nul && (python "%here%install.py" %* & goto end)
echo pathotune: there is no Python here. Install Python %wanted% for yourself alone first; that needs no admin rights.
:end
pause
